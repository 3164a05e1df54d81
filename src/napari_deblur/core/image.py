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
        Size of a pixel along y and x in µm, if known.
    z_step_um : float or None
        Distance of planes in µm, if known.
    name : str
    source : dict
        What the file or layer said beyond that (JSON types).
    """

    data: FloatArray
    axes: str = ""
    pixel_size_um: tuple[float, float] | None = None
    z_step_um: float | None = None
    name: str = "image"
    source: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        axes = self.axes or _DEFAULT_AXES.get(self.data.ndim, "")
        if len(axes) != self.data.ndim or not axes.endswith("yx"):
            raise InvalidInputError(
                "axes", f"must have one letter per axis of {self.data.shape} and end with 'yx'", axes
            )
        object.__setattr__(self, "axes", axes)
        for size in self.pixel_size_um or ():
            if not np.isfinite(size) or size <= 0:
                raise InvalidInputError("pixel_size_um", "must be positive", self.pixel_size_um)

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.data.shape[-2]), int(self.data.shape[-1])

    def with_data(self, data: NDArray[Any], name: str | None = None) -> Image:
        """Return a copy with other pixels of the same shape."""
        return replace(self, data=np.asarray(data, dtype=np.float32), name=name or self.name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Let numpy functions take the pixels."""
        return np.array(self.data, dtype=dtype, copy=copy)

    def planes(self) -> FloatArray:
        """Return a view ``(n, y, x)`` over all leading axes."""
        return self.data.reshape((-1, *self.data.shape[-2:]))


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
