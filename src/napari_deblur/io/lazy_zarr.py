"""OME-Zarr images read block by block."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deblur.io.lazy import LazyImage, Region
from napari_deblur.io.ome_zarr import open_level


class ZarrPixels:
    """The chunks of one array of a store in a folder; see `napari_deblur.io.lazy.Pixels`."""

    def __init__(self, array: Any, root: Path) -> None:
        self.array = array
        self.shape = tuple(array.shape)
        # A shard is stored as one file; reading a part of it reads only the chunks that it needs.
        self.chunks = tuple(array.chunks)
        self._files = tuple(getattr(array, "shards", None) or array.chunks)
        self.dtype = np.dtype(array.dtype)
        self._folder = root / str(array.path)
        names = ("zarr.json", ".zarray")
        self.anchor = next((f for n in names if (f := self._folder / n).exists()), self._folder / names[0])

    def read(self, region: Region) -> NDArray[Any]:
        """Read a part."""
        return np.asarray(self.array[region])

    def absent(self, region: Region) -> frozenset[str]:
        """Return the keys of a part's chunks that have no file: zarr reads these as the fill value."""
        spans = [
            range(part.start // size, -(-part.stop // size))
            for part, size in zip(region, self._files, strict=True)
        ]
        keys = (self.array.metadata.encode_chunk_key(place) for place in product(*spans))
        return frozenset(key for key in keys if not (self._folder / key).exists())


def open_zarr(path: Path, argument: str = "image", *, series: int = 0) -> LazyImage:
    """Open the full-resolution level of an OME-Zarr image without reading it.

    Raises
    ------
    InvalidInputError
        As `napari_deblur.io.ome_zarr.read_zarr`.
    """
    level = open_level(path, argument, series=series)
    return LazyImage(
        path,
        ZarrPixels(level.array, path),
        tuple(level.keep),
        source=level.source,
        series=series,
        argument=argument,
        **level.described(),
    )
