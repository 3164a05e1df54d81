"""Which PSF belongs to which plane, volume and channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.optics.psf_basis import PsfBasis
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.optics.settings import Optics

if TYPE_CHECKING:
    from napari_deblur.methods.base import Method


@dataclass(frozen=True)
class BlindPsf:
    """A PSF that is yet to be read off the image.

    Attributes
    ----------
    model : str
        Id of the model that reads it.
    one_psf : bool
        Whether all patches are read as one PSF of the whole field.
    """

    model: str
    one_psf: bool = False


OnePsf: TypeAlias = NDArray[Any] | Image | PsfMap | PsfBasis | Optics | BlindPsf | str
PsfSource: TypeAlias = OnePsf | list[PsfMap] | list[NDArray[Any]] | list[Image] | list[Optics] | None


def restored_ndim(psf: PsfSource, image: Image, method: Method) -> int:
    """Return whether planes (2) or volumes (3) are restored at a time.

    A PSF with a z axis, or optics with a distance of planes, restores volumes; every other restores plane by
    plane, whatever axes the image has.

    Raises
    ------
    InvalidInputError
        If the PSF asks for volumes and the image or the method knows none.
    """
    if _ndim_of(psf, image) == 2:
        return 2
    if image.data.ndim == 2:
        raise InvalidInputError(
            "psf", "must be 2D (y, x) for an image without a z axis", "a PSF with a z axis"
        )
    if "z" not in image.axes:
        rule = f"must have a z axis for a PSF in 3D (name the axes: nd.Image(data, axes='{_with_z(image)}'))"
        raise InvalidInputError("image", rule, f"axes {image.axes}")
    if 3 not in method.ndim:
        rule = f"must be 2D (y, x) for {method.title}, which works plane by plane"
        raise InvalidInputError("psf", rule, "a PSF with a z axis")
    return 3


def _with_z(image: Image) -> str:
    return image.axes[:-3] + "zyx" if len(image.axes) > 2 else "zyx"


def _ndim_of(psf: PsfSource, image: Image) -> int:
    if isinstance(psf, str | BlindPsf | PsfMap | PsfBasis) or psf is None:
        return 2
    if isinstance(psf, Optics):
        return 2 if psf.z_step_um is None else 3
    if isinstance(psf, Image):
        return 3 if psf.has_volumes else 2
    if _is_list(psf):
        found = {_ndim_of(one, image) for one in psf}
        if len(found) > 1:
            raise InvalidInputError("psf", "must be 2D for all channels or 3D for all", "a mixture")
        return found.pop()
    shape = _shape_without_leading_ones(psf)
    if _is_per_channel_array(shape, image):
        return len(shape) - 1
    return 3 if len(shape) == 3 else 2


def _shape_without_leading_ones(psf: Any) -> tuple[int, ...]:
    try:
        shape: tuple[int, ...] = tuple(np.shape(psf))
    except ValueError:  # a ragged list, which `prepare_psf` refuses by name
        return ()
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _is_list(psf: Any) -> bool:
    """Return whether a PSF is one per plane or channel, and no kernel written as nested lists."""
    kinds = PsfMap | Optics | Image | np.ndarray
    if not isinstance(psf, list | tuple) or not psf or not all(isinstance(one, kinds) for one in psf):
        return False
    return all(not isinstance(one, np.ndarray) or one.ndim >= 2 for one in psf)


def _is_per_channel_array(shape: tuple[int, ...], image: Image) -> bool:
    """Return whether an array's first axis counts channels: before (z, y, x), or where there is no z."""
    if "c" not in image.axes or not shape or shape[0] != image.data.shape[image.axes.index("c")]:
        return False
    return len(shape) == 4 or (len(shape) == 3 and "z" not in image.axes)


def one_of(psf: Any, image: Image, block: int, ndim: int) -> tuple[OnePsf, bool]:
    """Return the PSF of one plane or volume, and whether it is everyone's."""
    if isinstance(psf, str | BlindPsf | PsfMap | PsfBasis | Optics | Image):
        return psf, True
    if _is_list(psf) and all(isinstance(one, PsfMap) for one in psf):
        count = len(image.planes())
        if len(psf) != count:
            raise InvalidInputError("psf", f"must hold one map per plane ({count})", f"{len(psf)} maps")
        return psf[block], False
    channel = image.channel_of_block(block, ndim)
    if _is_list(psf):
        count = int(image.data.shape[image.axes.index("c")]) if "c" in image.axes else 1
        if len(psf) != count:
            rule = f"must be one or, as a list, one per channel ({count}; a channel axis is named 'c')"
            raise InvalidInputError("psf", rule, f"{len(psf)} PSFs and the axes {image.axes}")
        return psf[channel], count == 1
    if _is_per_channel_array(_shape_without_leading_ones(psf), image):
        return np.asarray(psf)[channel], False
    return psf, True


def describe_map(psf_map: PsfMap) -> dict[str, Any]:
    """Return what a record keeps of a PSF map (JSON types)."""
    usable = psf_map.parameters[psf_map.valid] if psf_map.valid.any() else psf_map.parameters.reshape(-1, 1)
    known = getattr(psf_map, "coefficients", None)
    more: dict[str, Any] = {}
    if known is not None:
        more["coefficients"] = [round(float(value), 5) for value in known.ravel()]
        more |= {name: psf_map.record[name] for name in ("basis_field",) if name in psf_map.record}
    more |= _origin(psf_map)
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
        **more,
    }


def _origin(psf_map: PsfMap) -> dict[str, Any]:
    """Return what decides whether the same map is found again without its file, and how.

    Under ``made`` stands what no step repeats: such a map has to be in a file to be used again.
    """
    record, basis = psf_map.record, getattr(psf_map, "basis", None)
    if "edited" in record:
        return {"made": "edited by hand"}
    if "basis_field" in record:
        return {"made": "measured for a field of a PSF basis"}
    if basis is not None:
        return {"simulated": True} if "simulated" in basis.record else {"made": "found in a PSF basis"}
    step = record.get("step") or {}
    if step.get("kind") != "estimate-psf-map":
        return {"made": "built from parameters"}
    return {"estimated": dict(step)}
