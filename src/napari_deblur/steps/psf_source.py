"""Turn whatever the user gives as a PSF into blur operators."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.params import declare
from napari_deblur.core.run import Run
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.optics.settings import Optics

if TYPE_CHECKING:
    from napari_deblur.blur.base import Blur
    from napari_deblur.blur.space_varying import EigenPsfs
    from napari_deblur.engine.engine import Engine
    from napari_deblur.methods.base import Method

PsfSource: TypeAlias = NDArray[Any] | PsfMap | list[PsfMap] | Optics | str | None


@dataclass(frozen=True, eq=False)
class BlurFactory:
    """Makes the blur operator of any window of a plane."""

    kernel: NDArray[np.float32] | None = None
    eigen: EigenPsfs | None = None

    @property
    def n_kernels(self) -> int:
        """Return how many convolutions one forward takes."""
        return 1 if self.eigen is None else len(self.eigen.kernels)

    def __call__(self, shape: tuple[int, int], origin_px: tuple[int, int], device: Any) -> Blur:
        """Return the blur over a window of ``shape`` whose first pixel is ``origin_px``."""
        import torch

        from napari_deblur.blur.convolution import Convolution
        from napari_deblur.blur.space_varying import MaskThenConvolve

        if self.eigen is not None:
            return MaskThenConvolve(self.eigen, shape, origin_px=origin_px, device=device)
        assert self.kernel is not None
        return Convolution(torch.from_numpy(self.kernel).to(device), shape)


@dataclass(frozen=True, eq=False)
class PlanePsf:
    """The PSF of one plane.

    Attributes
    ----------
    psf : ndarray or PsfMap
    shared : bool
        Whether all other planes have the same.
    description : dict
        For the record (JSON types).
    weights : dict
        sha256 of the networks that took part.
    """

    psf: NDArray[np.float32] | PsfMap
    shared: bool = True
    description: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)

    @property
    def radius_px(self) -> int:
        """Half the side length of the kernels."""
        if isinstance(self.psf, PsfMap):
            return self.psf.kernel_size_px // 2
        return int(max(self.psf.shape)) // 2

    def blurs(self, tolerance: float, device: str, run: Run) -> BlurFactory:
        """Return the factory of blur operators; a map is compressed to eigen-PSFs first."""
        del device
        if not isinstance(self.psf, PsfMap):
            return BlurFactory(kernel=self.psf)
        from napari_deblur.blur.space_varying import compress

        centers = self.psf.centers_px
        eigen = compress(self.psf.kernels(), centers[:, 0, 0], centers[0, :, 1], tolerance=tolerance)
        run.fact("eigen_psfs", len(eigen.kernels))
        run.fact("eigen_psf_relative_error", eigen.relative_error)
        return BlurFactory(eigen=eigen)


def resolve(
    psf: PsfSource,
    image: Image,
    plane: int,
    *,
    method: Method,
    engine: Engine,
    run: Run,
    optics: Optics | None,
) -> PlanePsf:
    """Return the PSF of one plane from anything a user may give.

    Raises
    ------
    InvalidInputError
        If the PSF breaks a rule or none was given where one is needed.
    """
    if psf is None:
        psf = method.default_psf
        if psf is None:
            raise InvalidInputError("psf", f"must be given for {method.title}", "nothing")
        run.note(f"No PSF was given: it is estimated from the image with {psf}.")
    shared = not _is_per_plane(psf)
    if isinstance(psf, list) and not shared:
        count = len(image.planes())
        if len(psf) != count:
            raise InvalidInputError("psf", f"must hold one map per plane ({count})", f"{len(psf)} maps")
        psf = psf[plane]
    if isinstance(psf, str):
        return _blind(psf, image, plane, engine=engine, run=run, optics=optics)
    if isinstance(psf, PsfMap):
        if not method.space_varying:
            raise InvalidInputError("psf", f"must be a single kernel for {method.title}", "a PSF map")
        if psf.image_shape != image.shape_yx:
            rule = f"must belong to an image of {image.shape_yx} pixels"
            raise InvalidInputError("psf_map", rule, f"a map of an image of {psf.image_shape}")
        return PlanePsf(psf, shared, describe_map(psf), dict(psf.record.get("weights", {})))
    if isinstance(psf, Optics):
        from napari_deblur.optics.psf import optics_psf

        return PlanePsf(optics_psf(psf), description={"source": "optics", **psf.model_dump(mode="json")})
    from napari_deblur.optics.measured import prepare_psf

    kernel = prepare_psf(psf, image_shape=image.shape_yx, run=run)
    return PlanePsf(kernel, description={"source": "kernel", "shape": list(kernel.shape)})


def _is_per_plane(psf: PsfSource) -> bool:
    """Return whether a PSF is a list of maps, as a stack's estimate gives it, and no nested list."""
    return isinstance(psf, list) and bool(psf) and all(isinstance(one, PsfMap) for one in psf)


def _blind(
    model: str, image: Image, plane: int, *, engine: Engine, run: Run, optics: Optics | None
) -> PlanePsf:
    from napari_deblur.steps.psf_map import EstimatePsfMap

    single = Image(image.planes()[plane], "yx", image.pixel_size_um, name=image.name)
    estimate = declare(EstimatePsfMap, {"model": model}).estimate(
        single, engine=engine, run=run, optics=optics
    )
    alone = len(image.planes()) == 1
    return PlanePsf(estimate, alone, describe_map(estimate), dict(estimate.record.get("weights", {})))


def describe_map(psf_map: PsfMap) -> dict[str, Any]:
    """Return what a record keeps of a PSF map (JSON types)."""
    usable = psf_map.parameters[psf_map.valid] if psf_map.valid.any() else psf_map.parameters.reshape(-1, 1)
    return {
        "source": "psf-map",
        "model": psf_map.model,
        "grid": list(psf_map.grid_shape),
        "valid": int(psf_map.valid.sum()),
        "cutoff_cycles_per_px": psf_map.cutoff_cycles_per_px,
        "median": {
            name: float(value)
            for name, value in zip(psf_map.parameter_names, np.median(usable, axis=0), strict=False)
        },
    }
