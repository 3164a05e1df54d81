"""An image with its axes and pixel size, and the checks that every entry point shares."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError

FloatArray = NDArray[np.float32]

_SMALLEST_SPATIAL = 16
_DEFAULT_AXES = {2: "yx", 3: "zyx", 4: "tzyx", 5: "tczyx"}


@dataclass(frozen=True)
class Image:
    """An array ``(…, y, x)`` with its axes and pixel size.

    Attributes
    ----------
    data : ndarray, float32, shape (…, y, x)
    axes : str
        One lower-case letter per axis, the last two ``yx``.
    pixel_size_um : tuple of float or None
        Size of a pixel along y and x in µm, if known; one number counts for both.
    z_step_um : float or None
        Distance of planes in µm, if known and there is a z axis.
    name : str
    source : dict
        What the file or layer said beyond that (JSON types).
    below : ndarray or None, same shape as ``data``
        What was cut off below zero when a background was taken off, zero or less, where that is known.
        Without it the noise of dark places has lost its lower half.
    """

    data: FloatArray
    axes: str = ""
    pixel_size_um: tuple[float, float] | None = None
    z_step_um: float | None = None
    name: str = "image"
    source: dict[str, Any] = field(default_factory=dict)
    below: FloatArray | None = None

    def __post_init__(self) -> None:
        if not hasattr(self.data, "ndim"):
            object.__setattr__(self, "data", as_float32(self.data))
        axes = self.axes or _DEFAULT_AXES.get(self.data.ndim, "")
        if len(axes) != self.data.ndim or not axes.endswith("yx") or len(set(axes)) < len(axes):
            rule = f"must have a letter of its own for each axis of {self.data.shape} and end with 'yx'"
            raise InvalidInputError("axes", rule, axes)
        object.__setattr__(self, "axes", axes)
        if self.pixel_size_um is not None:
            object.__setattr__(self, "pixel_size_um", _checked_pixel_size(self.pixel_size_um))
        if self.below is not None and self.below.shape != self.data.shape:
            raise InvalidInputError(
                "below", f"must have the image's shape {self.data.shape}", self.below.shape
            )
        if self.z_step_um is not None and not (np.isfinite(self.z_step_um) and self.z_step_um > 0):
            raise InvalidInputError("z_step_um", "must be positive", self.z_step_um)

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.data.shape[-2]), int(self.data.shape[-1])

    def with_data(self, data: NDArray[Any], name: str | None = None) -> Image:
        """Return a copy with other pixels of the same shape."""
        return replace(self, data=np.asarray(data, dtype=np.float32), name=name or self.name, below=None)

    def without(self, background: Any) -> Image:
        """Return this image with a background taken off, and what then lies below zero kept beside it.

        Parameters
        ----------
        background : Image or array_like of the same shape
            With the camera's offset, if there is one.

        Raises
        ------
        InvalidInputError
            If it has another shape or is not finite.
        """
        taken = as_float32(background.data if isinstance(background, Image) else background, "background")
        if taken.shape != self.data.shape:
            rule = f"must have the image's shape {self.data.shape}"
            raise InvalidInputError("background", rule, f"shape {taken.shape}")
        rest = self.data - taken
        return replace(self, data=np.maximum(rest, 0), below=np.minimum(rest, 0))

    @property
    def unclipped(self) -> FloatArray:
        """The pixels with what was cut off `below` zero, so that the noise's mean is right."""
        return self.data if self.below is None else self.data + self.below

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Let numpy functions take the pixels."""
        return np.array(self.data, dtype=dtype, copy=copy)

    @property
    def has_volumes(self) -> bool:
        """Whether there is a z axis with more than one plane."""
        return "z" in self.axes and int(self.data.shape[self.axes.index("z")]) > 1

    @property
    def voxel_size_um(self) -> tuple[float, float, float] | None:
        """Size of a voxel along z, y and x in µm, where all of them are known."""
        if self.pixel_size_um is None or self.z_step_um is None or "z" not in self.axes:
            return None
        return (self.z_step_um, *self.pixel_size_um)

    def planes(self) -> FloatArray:
        """Return a view ``(n, y, x)`` over all leading axes."""
        return self.data.reshape((-1, *self.data.shape[-2:]))

    def blocks(self, ndim: int) -> FloatArray:
        """Return what is restored at a time, along the first axis: planes or volumes.

        Parameters
        ----------
        ndim : {2, 3}
            2 for ``(n, y, x)``; 3 for ``(n, z, y, x)``, where another axis may lie between z and y.

        Raises
        ------
        InvalidInputError
            If volumes are asked for and there is no z axis.
        """
        if ndim == 2:
            return self.planes()
        if "z" not in self.axes:
            raise InvalidInputError("image", "must have a z axis to be restored in 3D", f"axes {self.axes}")
        volumes = np.moveaxis(self.data, self.axes.index("z"), -3)
        return volumes.reshape((-1, *volumes.shape[-3:]))

    def block_shape(self, ndim: int) -> tuple[int, ...]:
        """Return the shape of one plane (2) or volume (3)."""
        plane = self.shape_yx
        return plane if ndim == 2 else (int(self.data.shape[self.axes.index("z")]), *plane)

    def from_blocks(self, blocks: FloatArray) -> FloatArray:
        """Return the array of the image's shape that `blocks` took apart."""
        if blocks.ndim == 3:
            return blocks.reshape(self.data.shape)
        at = self.axes.index("z")
        shape = [size for axis, size in enumerate(self.data.shape) if axis != at]
        volumes = blocks.reshape((*shape[:-2], *blocks.shape[1:]))
        return np.ascontiguousarray(np.moveaxis(volumes, -3, at))

    def channel_of_block(self, block: int, ndim: int) -> int:
        """Return the index along the channel axis of a plane or volume; 0 where there is none."""
        dropped = "yx" if ndim == 2 else "zyx"
        axes = [axis for axis in self.axes if axis not in dropped]
        if "c" not in axes:
            return 0
        sizes = [int(self.data.shape[self.axes.index(axis)]) for axis in axes]
        return int(np.unravel_index(block, sizes)[axes.index("c")])


def _checked_pixel_size(given: Any) -> tuple[float, float]:
    try:
        sizes = np.broadcast_to(np.asarray(given, dtype=float), 2) if np.ndim(given) < 1 else given
        y, x = (float(size) for size in sizes)
    except (TypeError, ValueError):
        rule = "must be one number, or two for y and x"
        raise InvalidInputError("pixel_size_um", rule, given) from None
    if not (np.isfinite([y, x]).all() and min(y, x) > 0):
        raise InvalidInputError("pixel_size_um", "must be positive", given)
    return y, x


def as_float32(array: Any, argument: str = "image") -> FloatArray:
    """Convert any real array to native float32, refusing what has no meaning as intensities.

    Raises
    ------
    InvalidInputError
        For complex, object or text arrays, and for NaN or infinite values.
    """
    try:
        data = np.asarray(array)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(argument, "must be a regular array of numbers", repr(error)) from None
    if data.dtype.kind not in "buif":
        raise InvalidInputError(argument, "must hold real numbers", f"dtype {data.dtype}")
    if 0 in data.shape:
        raise InvalidInputError(argument, "must not have an axis of length 0", f"shape {data.shape}")
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(data, dtype=np.float32)
    bad = int(converted.size - np.count_nonzero(np.isfinite(converted)))
    if bad:
        raise InvalidInputError(
            argument, "must be finite (no NaN, no infinity)", f"{bad} of {converted.size} values that are not"
        )
    return converted


def as_image(image: Any, argument: str = "image", *, smallest_px: int = _SMALLEST_SPATIAL) -> Image:
    """Check an input image and bring it to float32.

    Parameters
    ----------
    image : Image or array_like, shape (…, y, x)
    argument : str
        Name used in errors.
    smallest_px : int
        Least height and width accepted.

    Raises
    ------
    InvalidInputError
        For fewer than two axes, more than five, RGB, empty, tiny, constant or non-finite images.
    """
    given = image if isinstance(image, Image) else None
    data = as_float32(given.data if given else image, argument)
    if not 2 <= data.ndim <= 5:
        raise InvalidInputError(argument, "must have 2 to 5 axes, ending with y and x", f"shape {data.shape}")
    if given is None and _looks_rgb(data.shape):
        raise InvalidInputError(
            argument,
            "must be single-channel: split the colours into separate images first",
            f"shape {data.shape}, which looks like RGB",
        )
    if min(data.shape[-2:]) < smallest_px:
        raise InvalidInputError(
            argument, f"must be at least {smallest_px} × {smallest_px} pixels", f"shape {data.shape}"
        )
    if float(data.max()) == float(data.min()):
        raise InvalidInputError(
            argument,
            "must not be constant, there is nothing to restore",
            f"{float(data.flat[0]):g} everywhere",
        )
    return replace(given, data=data) if given else Image(data)


def _looks_rgb(shape: tuple[int, ...]) -> bool:
    return len(shape) >= 3 and shape[-1] in (3, 4) and min(shape[-3:-1]) >= _SMALLEST_SPATIAL
