"""Tiled OME-TIFF written block by block, in any order and by several processes."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.image import Image
from napari_deblur.io.numbers import Dtype, as_stored
from napari_deblur.io.tiff import ome_metadata, xml_text

if TYPE_CHECKING:
    from napari_deblur.io.lazy import Region

_TILE_PX = 256
_ALIGN_PX = 16
# Stands where the record goes once it is known.
_PLACE = "record-follows"


class TiledTiffWriter:
    """An uncompressed image in tiles, each of which has its fixed place in the file.

    Parameters
    ----------
    path : Path
        File that `create` made.
    """

    def __init__(self, path: Path) -> None:
        import tifffile

        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            self._dtype = np.dtype(series.dtype).newbyteorder(file.byteorder)
            self._shape = tuple(series.shape)
            self._tile = (int(series.keyframe.tilelength), int(series.keyframe.tilewidth))
            self._offsets = [tuple(page.dataoffsets) for page in series.pages if page is not None]
        self._path = path

    @classmethod
    def create(
        cls, path: Path, image: Image, *, blocks: tuple[int, ...], dtype: Dtype = "float32"
    ) -> TiledTiffWriter:
        """Make a file for an image, zero everywhere.

        Parameters
        ----------
        path : Path
        image : Image
            Gives shape, axes, sizes and the name; its pixels are not looked at.
        blocks : tuple of int
            Sides of the blocks that will be written; no two of them get to share a tile.
        dtype : {"float32", "uint16"}
        """
        import tifffile

        shape = image.data.shape
        sides = [_tile_side(side, size) for side, size in zip(blocks[-2:], shape[-2:], strict=True)]
        tifffile.imwrite(
            path,
            shape=shape,
            dtype=dtype,
            tile=(sides[0], sides[1]),
            ome=True,
            bigtiff=True,
            photometric="minisblack",
            metadata=ome_metadata(image, _PLACE),
        )
        return cls(path)

    def write(self, region: Region, data: NDArray[np.float32]) -> None:
        """Write a part that starts at tiles' corners and ends there or at the image's border."""
        stored = as_stored(data, self._dtype)
        height, width = self._tile
        across = -(-self._shape[-1] // width)
        rows, columns = region[-2:]
        with self._path.open("r+b", buffering=0) as file:
            for place in product(*(range(part.stop - part.start) for part in region[:-2])):
                lead = [part.start + n for part, n in zip(region, place, strict=False)]
                page = int(np.ravel_multi_index(lead, self._shape[:-2])) if lead else 0
                plane = stored[place]
                for top, left in product(
                    range(rows.start, rows.stop, height), range(columns.start, columns.stop, width)
                ):
                    tile = np.zeros(self._tile, self._dtype)
                    part = plane[top - rows.start :, left - columns.start :][:height, :width]
                    tile[: part.shape[0], : part.shape[1]] = part
                    file.seek(self._offsets[page][top // height * across + left // width])
                    _write_all(file, tile.tobytes())

    def set_record(self, record: dict[str, Any]) -> None:
        """Keep a record (JSON types) as an OME comment annotation."""
        import tifffile

        with tifffile.TiffFile(self._path) as file:
            xml = str(file.ome_metadata)
        text = escape(xml_text(json.dumps(record, ensure_ascii=False)))
        tifffile.tiffcomment(self._path, xml.replace(_PLACE, text).encode())


def _write_all(file: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _tile_side(block: int, size: int) -> int:
    """Return the largest side of tiles that divides the blocks."""
    if block >= size:
        return _TILE_PX
    return max(side for side in range(_ALIGN_PX, _TILE_PX + 1, _ALIGN_PX) if block % side == 0)
