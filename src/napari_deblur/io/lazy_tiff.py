"""TIFF files read block by block: plain ones row by row, tiled or compressed ones through zarr."""

from __future__ import annotations

import math
import threading
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.io.lazy import LazyImage, Region

if TYPE_CHECKING:
    import tifffile

# A row is read whole, and then cut, where less than this many bytes of it are not asked for.
_READ_WHOLE_BYTES = 65536
_SMALL_STRIP_BYTES = 65536
_SMALL_PLANE_BYTES = 2**26


class _Opened:
    """What both kinds of pixels share: the open file and its one lock."""

    def __init__(self, file: tifffile.TiffFile, series: tifffile.TiffPageSeries, path: Path) -> None:
        self.file, self.anchor = file, path
        self.shape = tuple(series.shape)
        self.lock = threading.Lock()

    def absent(self, region: Region) -> frozenset[str]:
        """Return nothing: a TIFF file is stored whole."""
        del region
        return frozenset()

    def __del__(self) -> None:
        self.file.close()


class PlainPixels(_Opened):
    """Uncompressed planes in one run of bytes; see `napari_deblur.io.lazy.Pixels`."""

    def __init__(self, file: tifffile.TiffFile, series: tifffile.TiffPageSeries, path: Path) -> None:
        super().__init__(file, series, path)
        self.dtype = np.dtype(series.dtype).newbyteorder(file.byteorder)
        self.chunks = (*(1,) * (len(self.shape) - 2), *self.shape[-2:])
        self._start = int(series.dataoffset or 0)

    def read(self, region: Region) -> NDArray[Any]:
        """Read a part: runs of rows at once where the rest of a row is short, else piece by piece."""
        found = np.empty([part.stop - part.start for part in region], self.dtype)
        width, last = self.shape[-1], region[-1]
        rows = region[-2]
        left_out = (width - (last.stop - last.start)) * self.dtype.itemsize
        whole = left_out < _READ_WHOLE_BYTES
        for place in product(*(range(part.stop - part.start) for part in region[:-2])):
            lead = tuple(part.start + n for part, n in zip(region, place, strict=False))
            if whole:
                block = self._at((*lead, rows.start, 0), (rows.stop - rows.start) * width)
                found[place] = block.reshape(-1, width)[:, last]
                continue
            for number, row in enumerate(range(rows.start, rows.stop)):
                found[(*place, number)] = self._at((*lead, row, last.start), last.stop - last.start)
        return found

    def _at(self, index: tuple[int, ...], count: int) -> NDArray[Any]:
        strides = [math.prod(self.shape[number + 1 :]) for number in range(len(self.shape))]
        offset = self._start + self.dtype.itemsize * sum(
            n * stride for n, stride in zip(index, strides, strict=True)
        )
        with self.lock:
            handle = self.file.filehandle
            handle.seek(offset)
            data = handle.read(count * self.dtype.itemsize)
        if len(data) < count * self.dtype.itemsize:
            raise EOFError("the file is cut off")
        return np.frombuffer(data, self.dtype)


class PiecedPixels(_Opened):
    """Tiles or strips, compressed or not; see `napari_deblur.io.lazy.Pixels`."""

    def __init__(
        self, file: tifffile.TiffFile, series: tifffile.TiffPageSeries, path: Path, zarr: Any
    ) -> None:
        super().__init__(file, series, path)
        self.dtype = np.dtype(series.dtype)
        page = series.keyframe
        plane = math.prod(self.shape[-2:]) * self.dtype.itemsize
        # Planes in strips of a few rows are read whole: one request each would take longer than the pixels.
        small = not page.is_tiled and plane / len(page.dataoffsets) < _SMALL_STRIP_BYTES
        mode = "page" if small and plane < _SMALL_PLANE_BYTES else None
        self._array = zarr.open(series.aszarr(level=0, chunkmode=mode), mode="r")
        self.chunks = tuple(self._array.chunks)

    def read(self, region: Region) -> NDArray[Any]:
        """Read a part."""
        with self.lock:
            return np.asarray(self._array[region])


def open_tiff(path: Path, argument: str = "image", *, series: int = 0) -> LazyImage:
    """Open one series of a TIFF file without reading its pixels.

    Raises
    ------
    InvalidInputError
        As `napari_deblur.io.tiff.read_tiff`; also if the file is tiled or compressed and the extra 'zarr' is
        missing.
    """
    import tifffile

    from napari_deblur.io import tiff_header as tiff
    from napari_deblur.io.ome_zarr import require_zarr

    file: tifffile.TiffFile | None = None
    try:
        with tiff.complaints(path, argument):
            file = tifffile.TiffFile(path)
            chosen = tiff.pick_series(file, path, series)
            tiff.check_series(path, file, chosen, argument)
            plain = chosen.dataoffset is not None and not chosen.is_multifile
            pixels = (
                PlainPixels(file, chosen, path)
                if plain
                else PiecedPixels(file, chosen, path, require_zarr(argument, path))
            )
            order, letters = tiff.arrangement(pixels.shape, str(chosen.axes))
            described = tiff.describe(file, series, path)
    except Exception as error:
        if file is not None:
            file.close()
        if isinstance(error, InvalidInputError | MemoryError):
            raise
        # tifffile raises whatever the damaged bytes lead it to
        rule = f"must be a readable TIFF file ({tiff.one_line(error)})"
        raise InvalidInputError(argument, rule, repr(str(path))) from error
    described["z_step_um"] = described["z_step_um"] if "z" in letters else None
    return LazyImage(path, pixels, order, letters, series=series, argument=argument, **described)
