"""NPY files read block by block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.io.lazy import LazyImage, Region


class NpyPixels:
    """An array that the system maps into memory as it is read; see `napari_deblur.io.lazy.Pixels`."""

    def __init__(self, path: Path) -> None:
        self.anchor = path
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        self.shape, self.dtype = tuple(mapped.shape), mapped.dtype
        self.chunks = (*(1,) * (mapped.ndim - 2), *mapped.shape[-2:])

    def read(self, region: Region) -> NDArray[Any]:
        """Read a part; the map is closed again, because its pages count as the process's memory."""
        return np.array(np.load(self.anchor, mmap_mode="r", allow_pickle=False)[region])

    def absent(self, region: Region) -> frozenset[str]:
        """Return nothing: an NPY file is stored whole."""
        del region
        return frozenset()


def open_npy(path: Path, argument: str = "image") -> LazyImage:
    """Open an NPY file without reading it.

    Raises
    ------
    InvalidInputError
        If it is damaged or holds no numbers.
    """
    try:
        pixels = NpyPixels(path)
    except (ValueError, OSError, EOFError) as error:
        rule = f"must be a complete NPY file of numbers ({' '.join(str(error).split())})"
        raise InvalidInputError(argument, rule, repr(str(path))) from error
    source = {"path": str(path), "dtype": str(pixels.dtype)}
    order = tuple(range(len(pixels.shape)))
    return LazyImage(path, pixels, order, "", name=path.stem, source=source, argument=argument)
