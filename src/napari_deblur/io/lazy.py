"""Images that are read block by block, never as a whole."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import FloatArray, Image
from napari_deblur.io.read import TIFF_SUFFIXES, existing

LAZY_SUFFIXES = (*TIFF_SUFFIXES, ".npy", ".zarr")
Region = tuple[slice, ...]


class Pixels(Protocol):
    """Where an image's pixels lie, in the order of axes that the file has.

    Attributes
    ----------
    shape, chunks : tuple of int
        Of the whole, and of what the file stores in one piece.
    dtype : numpy dtype
    anchor : Path
        File that is there as long as the image is.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    anchor: Path

    def read(self, region: Region) -> NDArray[Any]:
        """Read a part; the slices have a start and a stop and no step."""

    def absent(self, region: Region) -> frozenset[str]:
        """Return the pieces of a part that are not stored, and so count as their fill value."""


@dataclass(frozen=True, eq=False)
class LazyImage:
    """An image on disk: everything that `Image` has but the pixels, which `read` gives part by part.

    Attributes
    ----------
    path : Path
    pixels : Pixels
    order : tuple of int
        Which axis of the file each axis of the image is; the others have length 1.
    axes : str
        One lower-case letter per axis, the last two ``yx``.
    pixel_size_um : tuple of float or None
    z_step_um : float or None
    name : str
    source : dict
        What `Image.source` holds.
    series : int
        Which of the file's images.
    argument : str
        Name used in errors.
    stored_absent : frozenset of str or None
        Pieces known not to be stored; another one that is missing means that the file is being taken away.
    """

    path: Path
    pixels: Pixels
    order: tuple[int, ...]
    axes: str
    pixel_size_um: tuple[float, float] | None = None
    z_step_um: float | None = None
    name: str = "image"
    source: dict[str, Any] = field(default_factory=dict)
    series: int = 0
    argument: str = "image"
    stored_absent: frozenset[str] | None = None

    def __post_init__(self) -> None:
        given = f"{str(self.path)!r}, shape {self.shape}, dtype {self.pixels.dtype}"
        if 0 in self.pixels.shape:
            raise InvalidInputError(self.argument, "must not have an axis of length 0", given)
        if self.pixels.dtype.kind not in "buif":
            raise InvalidInputError(self.argument, "must hold real numbers", given)
        if not 2 <= len(self.shape) <= 5:
            raise InvalidInputError(self.argument, "must have 2 to 5 axes, ending with y and x", given)
        # An image without pixels checks axes and sizes as every image's are, and names unnamed axes.
        object.__setattr__(self, "axes", self.stub().axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (…, y, x)."""
        return tuple(int(self.pixels.shape[number]) for number in self.order)

    @property
    def chunks(self) -> tuple[int, ...]:
        """What the file stores in one piece, in the image's axes."""
        return tuple(int(self.pixels.chunks[number]) for number in self.order)

    @property
    def size(self) -> int:
        """Number of pixels."""
        return math.prod(self.shape)

    def stub(self) -> Image:
        """Return an image of this shape and these sizes that holds no pixels: it is zero everywhere."""
        nothing = np.broadcast_to(np.float32(0), self.shape)
        return Image(nothing, self.axes, self.pixel_size_um, self.z_step_um, self.name, self.source)

    def read(self, region: Region) -> FloatArray:
        """Read a part as float32.

        Parameters
        ----------
        region : tuple of slice
            One per axis, with start and stop, without step.

        Raises
        ------
        InvalidInputError
            If the file has gone or changed, is damaged there, or holds values that are not finite.
        """
        native = self._native(region)
        try:
            raw = self.pixels.read(native)
            lost = self._lost(native)
        except MemoryError:
            raise
        except Exception as error:  # every library fails in its own way on a file that is taken away
            raise self._gone(" ".join(str(error).split()) or type(error).__name__) from error
        if lost:
            raise self._gone(f"{len(lost)} of its chunks are missing, first {min(lost)}")
        rest = tuple(n for n in range(raw.ndim) if n not in self.order)
        arranged = raw.transpose((*rest, *self.order)).reshape([s.stop - s.start for s in region])
        with np.errstate(over="ignore"):
            data: FloatArray = np.ascontiguousarray(arranged, dtype=np.float32)
        bad = int(data.size - np.count_nonzero(np.isfinite(data)))
        if bad:
            first = np.unravel_index(int(np.argmin(np.isfinite(data))), data.shape)
            where = zip(self.axes, region, first, strict=True)
            place = ", ".join(f"{letter} {part.start + index}" for letter, part, index in where)
            received = f"{bad} values that are not, first at {place}"
            raise InvalidInputError(self.argument, "must be finite (no NaN, no infinity)", received)
        return data

    def load(self) -> Image:
        """Read all of it."""
        return replace(self.stub(), data=self.read(tuple(slice(0, size) for size in self.shape)))

    def absent(self, region: Region) -> frozenset[str]:
        """Return the pieces of a part that are not stored."""
        return self.pixels.absent(self._native(region))

    def fingerprint(self) -> dict[str, int]:
        """Return what changes when the file is replaced: its size and time of change.

        Raises
        ------
        InvalidInputError
            If it has gone.
        """
        try:
            found = os.stat(self.pixels.anchor)
        except OSError as error:
            raise self._gone(error.strerror or str(error)) from error
        return {"bytes": found.st_size, "changed_ns": found.st_mtime_ns}

    def _native(self, region: Region) -> Region:
        native = [slice(0, 1)] * len(self.pixels.shape)
        for number, part in zip(self.order, region, strict=True):
            native[number] = part
        return tuple(native)

    def _lost(self, native: Region) -> frozenset[str]:
        self.fingerprint()
        if self.stored_absent is None:
            return frozenset()
        return self.pixels.absent(native) - self.stored_absent

    def _gone(self, reason: str) -> InvalidInputError:
        rule = f"must stay there and whole while it is read ({reason})"
        return InvalidInputError(self.argument, rule, repr(str(self.path)))


def open_image(
    path: str | os.PathLike[str],
    argument: str = "image",
    *,
    axes: str | None = None,
    series: int = 0,
) -> LazyImage:
    """Open an image without reading its pixels.

    Parameters
    ----------
    path : path-like
        A TIFF, an OME-Zarr folder or an NPY file.
    argument : str
        Name used in errors.
    axes : str, optional
        One letter per axis, the last two ``yx``, where the file's own naming is missing or wrong.
    series : int
        Which image of a TIFF or OME-Zarr that holds several.

    Raises
    ------
    InvalidInputError
        As `napari_deblur.io.read.read_image`; also for kinds of files that can only be read whole.
    """
    source = existing(path, argument)
    suffix = source.suffix.lower()
    if suffix == ".zarr" or source.is_dir():
        from napari_deblur.io.lazy_zarr import open_zarr

        image = open_zarr(source, argument, series=series)
    elif suffix in TIFF_SUFFIXES:
        from napari_deblur.io.lazy_tiff import open_tiff

        image = open_tiff(source, argument, series=series)
    elif suffix == ".npy":
        from napari_deblur.io.lazy_npy import open_npy

        image = open_npy(source, argument)
    else:
        rule = f"must end in one of {', '.join(LAZY_SUFFIXES)} to be read block by block"
        raise InvalidInputError(argument, rule, repr(str(source)))
    if axes is not None:
        letters = axes.lower()
        if len(set(letters)) != len(letters) or not letters.isalpha():
            raise InvalidInputError("axes", "must have one different letter per axis", axes)
        image = replace(image, axes=letters)
    return image
