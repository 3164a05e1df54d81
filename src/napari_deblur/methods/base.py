"""What a deblurring method is, and the list of them."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import SerializerFunctionWrapHandler, model_serializer

from napari_deblur.core.errors import InvalidInputError, UnknownNameError
from napari_deblur.core.params import Declared, parameters

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_deblur.blur.base import Blur
    from napari_deblur.core.run import Run

ENTRY_POINT_GROUP = "napari_deblur.methods"
GREY_VALUES = "grey values"
"""Unit of parameters that are brought to the unit of the image that `solve` gets."""


class Method(Declared):
    """A deblurring method: its fields are its parameters, its class says what it can do.

    A subclass declares ``kind: Literal["its-id"] = "its-id"`` and implements `solve`. One whose tiles do
    not agree with the whole to 1e-4 of the range says so (``tiles_agree = False``); then it is tiled only
    where memory forces it or the user asks, and the record says so. One that works on volumes too says
    ``ndim = (2, 3)``; its `solve` then gets ``(z, y, x)`` where the PSF has a z axis. One whose `solve`
    takes itself what `settle` would find says ``settles_in_solve = True``, and `settle` is asked for tiles
    only. One whose model of the image is the blurred object plus `Blur.pedestal` says ``knows_pedestal =
    True``: noise around zero then reaches it unclipped. Where no PSF is given it is estimated by
    ``default_psf``: a map, or with ``default_one_psf = True`` one PSF of the whole field.
    """

    title: ClassVar[str]
    summary: ClassVar[str]
    reference: ClassVar[str]
    family: ClassVar[Literal["linear", "iterative", "zero-shot", "learned"]]
    blind: ClassVar[bool] = False
    learned: ClassVar[bool] = False
    space_varying: ClassVar[bool] = True
    ndim: ClassVar[tuple[int, ...]] = (2,)
    non_negative: ClassVar[bool] = True
    tiles_agree: ClassVar[bool] = True
    settles_in_solve: ClassVar[bool] = False
    knows_pedestal: ClassVar[bool] = False
    default_psf: ClassVar[str | None] = "gaussian-2"
    default_one_psf: ClassVar[bool] = False

    @model_serializer(mode="wrap")
    def _with_kind(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"kind": method_id(type(self)), **handler(self)}

    def scaled(self, grey_per_unit: float) -> Self:
        """Bring parameters whose unit is grey values to that of the image that `solve` gets.

        Parameters
        ----------
        grey_per_unit : float
            Grey values that 1 stands for.
        """
        names = [one.name for one in parameters(type(self)) if one.unit == GREY_VALUES]
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        if not given:
            return self
        return self.model_copy(update={name: value / grey_per_unit for name, value in given.items()})

    @property
    def takes_several(self) -> bool:
        """Whether `solve` also takes several images of one blur, ``(n, *blur.image_shape)``.

        It must then give each what it gives it alone.
        """
        return False

    def start_psf(self) -> NDArray[np.float32] | None:
        """Return the kernel that a blind method starts from where the user gives none."""
        return None

    @property
    def label(self) -> str:
        """What results are called: the title, with a badge where a trained network made the pixels."""
        return f"{self.title} (learned)" if self.learned else self.title

    def network_ids(self) -> tuple[str, ...]:
        """Return the ids of the trained networks that make pixels: their files are checked and recorded."""
        return ()

    @property
    def found_psf(self) -> NDArray[np.float32] | None:
        """The kernel ``(y, x)`` that a blind method found in `settle`, sum 1; None for all others."""
        return None

    def settle(self, y: Tensor, blur: Blur, run: Run) -> Self:
        """Fix on the whole what depends on the data, so that all tiles agree.

        Parameters
        ----------
        y : Tensor, shape (y, x) or (z, y, x)
            The whole plane or volume, or its central part where that is large.
        blur : Blur
            The blur over ``y``.
        run : Run
        """
        del y, blur, run
        return self

    def halo_px(self, psf_radius_px: int) -> int:
        """Return how far around a tile is read: far enough for 1e-4 of the range, if `tiles_agree`."""
        raise NotImplementedError

    def bytes_per_px(self, n_kernels: int) -> float:
        """Return the memory taken per voxel of the blur's grid, for the plan and for choosing tiles."""
        return 4.0 * (24 + 6 * n_kernels)

    def solve(self, y: Tensor, blur: Blur, run: Run) -> Tensor:
        """Restore one plane or volume.

        Parameters
        ----------
        y : Tensor, shape ``blur.image_shape``
            Image with the camera offset removed, scaled to a maximum near 1; not negative if the method
            declares `non_negative`.
        blur : Blur
        run : Run
            ``run.step`` is called every iteration.

        Returns
        -------
        Tensor, shape ``blur.object_shape``
        """
        raise NotImplementedError


def method_id(method: type[Method]) -> str:
    """Return the id that users know a method by."""
    return str(method.model_fields["kind"].default)


@cache
def registry() -> dict[str, type[Method]]:
    """Return every method by id: our own, then those of other packages."""
    from napari_deblur.methods.cider import Cider
    from napari_deblur.methods.deep_blur import DeepBlur
    from napari_deblur.methods.hyper_laplacian import HyperLaplacian
    from napari_deblur.methods.latent_deformation import LatentDeformation
    from napari_deblur.methods.richardson_lucy import RichardsonLucy, TVRichardsonLucy
    from napari_deblur.methods.self_deblur import SelfDeblur
    from napari_deblur.methods.wiener import Wiener

    found: list[type[Method]] = [Wiener, RichardsonLucy, TVRichardsonLucy, HyperLaplacian]
    found += [DeepBlur, LatentDeformation, Cider, SelfDeblur]
    found += [entry.load() for entry in entry_points(group=ENTRY_POINT_GROUP)]
    return {method_id(method): method for method in found}


def make_method(method: str | Method | dict[str, Any], **parameters: Any) -> Method:
    """Return a method from its id and parameters, a dict with a ``kind``, or a method as it is.

    Raises
    ------
    UnknownNameError
        If there is no such method.
    InvalidInputError
        If a parameter breaks its rule.
    """
    if isinstance(method, Method):
        if parameters:
            return type(method)(**{**dict(method), **parameters})
        return method
    if isinstance(method, dict):
        parameters = {key: value for key, value in method.items() if key != "kind"} | parameters
        method = method.get("kind", "")
    if not isinstance(method, str):
        raise InvalidInputError("method", "must be a method's id or a Method", repr(method))
    if method not in registry():
        raise UnknownNameError("method", method, list(registry()))
    return registry()[method](**parameters)
