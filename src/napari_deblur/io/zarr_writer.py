"""OME-Zarr 0.4 and 0.5 written through the ``zarr`` extra, whole or block by block."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import FloatArray, Image
from napari_deblur.io.numbers import Dtype, as_stored
from napari_deblur.io.ome_zarr import RECORD_KEY, require_zarr

Version = Literal["0.4", "0.5"]
_COARSEST_PX = 256
_CHUNK_PX = 1024
_AXIS_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
Region = tuple[slice, ...]


class ZarrWriter:
    """An image in a store, with a pyramid of 2 × 2 means.

    Parameters
    ----------
    path : Path
        Store that `create` made.
    axes : str
        Axes of the data that `write` gets; the store has them in the order ``tczyx``.
    """

    def __init__(self, path: Path, axes: str) -> None:
        self._group = require_zarr("output", path).open_group(str(path), mode="r+")
        self._order = _order(axes)
        self._levels = [self._group[str(number)] for number in range(len(self._group))]

    @classmethod
    def create(
        cls,
        path: Path,
        image: Image,
        *,
        version: Version = "0.4",
        chunks: tuple[int, ...] | None = None,
        dtype: Dtype = "float32",
    ) -> ZarrWriter:
        """Make an empty store for an image.

        Parameters
        ----------
        path : Path
            Folder to write; what is there is lost.
        image : Image
            Gives shape, axes (among ``tczyx``), sizes in µm and the name; its pixels are not looked at.
        version : {"0.4", "0.5"}
        chunks : tuple of int, optional
            In the image's axes; by default planes of up to 1024².
        dtype : {"float32", "uint16"}

        Raises
        ------
        InvalidInputError
            If the extra is missing or the axes cannot be told.
        """
        zarr = require_zarr("output", path)
        order = _order(image.axes)
        letters = [image.axes[number] for number in order]
        shape = tuple(image.data.shape[number] for number in order)
        pieces = chunks or (*(1,) * (image.data.ndim - 2), _CHUNK_PX, _CHUNK_PX)
        group = zarr.open_group(str(path), mode="w", zarr_format=2 if version == "0.4" else 3)
        sizes = dict(zip("zyx", (image.z_step_um, *(image.pixel_size_um or (None, None))), strict=True))
        keys: dict[str, Any] = {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
        datasets: list[dict[str, Any]] = []
        for number, level in enumerate(_pyramid(shape)):
            group.create_array(
                str(number),
                shape=level,
                chunks=tuple(min(pieces[axis], size) for axis, size in zip(order, level, strict=True)),
                dtype=dtype,
                **(keys if version == "0.4" else {"dimension_names": letters}),
            )
            datasets.append(_dataset(number, letters, sizes))
        scales: dict[str, Any] = {
            "name": image.name,
            "axes": [_axis(letter, sizes.get(letter)) for letter in letters],
            "datasets": datasets,
            "type": "mean",
        }
        if version == "0.4":
            group.attrs["multiscales"] = [{"version": version, **scales}]
        else:
            group.attrs["ome"] = {"version": version, "multiscales": [scales]}
        return cls(path, image.axes)

    @property
    def n_levels(self) -> int:
        """Number of levels of the pyramid."""
        return len(self._levels)

    def write(self, region: Region, data: NDArray[np.float32]) -> None:
        """Write a part of the full resolution, in the axes of the data."""
        stored = as_stored(data, self._levels[0].dtype)
        self._levels[0][tuple(region[number] for number in self._order)] = stored.transpose(self._order)

    def parts(self, level: int, most_px: int = 2**24) -> list[Region]:
        """Return the parts in which a level is computed from the one before: whole chunks, no two alike."""
        return list(_parts(self._levels[level].shape, self._levels[level].chunks, most_px))

    def halve(self, level: int, region: Region) -> None:
        """Compute a part of a level as the means of 2 × 2 pixels of the level before."""
        double = tuple(slice(2 * part.start, 2 * part.stop) for part in region[-2:])
        fine = np.asarray(self._levels[level - 1][(*region[:-2], *double)])
        self._levels[level][region] = as_stored(_halved(fine), self._levels[level].dtype)

    def set_record(self, record: dict[str, Any]) -> None:
        """Keep a record (JSON types) in the store's attributes."""
        self._group.attrs[RECORD_KEY] = record


def write_zarr(
    image: Image,
    path: Path,
    record: dict[str, Any] | None,
    version: Version = "0.4",
    *,
    dtype: Dtype = "float32",
) -> None:
    """Write an image as OME-Zarr, with a pyramid of 2 × 2 means and sizes in µm.

    Parameters
    ----------
    image : Image
        Its axes must be among ``tczyx``.
    path : Path
        Folder to write, as it is; see `napari_deblur.core.atomic`.
    record : dict or None
        Provenance (JSON types), kept in the group's attributes.
    version : {"0.4", "0.5"}
    dtype : {"float32", "uint16"}

    Raises
    ------
    InvalidInputError
        If the extra is missing or the axes cannot be told.
    """
    writer = ZarrWriter.create(path, image, version=version, dtype=dtype)
    writer.write(tuple(slice(0, size) for size in image.data.shape), image.data)
    for level in range(1, writer.n_levels):
        for part in writer.parts(level):
            writer.halve(level, part)
    if record is not None:
        writer.set_record(record)


def _order(axes: str) -> tuple[int, ...]:
    order = tuple(axes.index(letter) for letter in "tczyx" if letter in axes)
    if len(order) != len(axes):
        raise InvalidInputError("axes", "must be among t, c, z, y, x for OME-Zarr", axes)
    return order


def _pyramid(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    yield shape
    while min(shape[-2:]) >= 2 * _COARSEST_PX:
        shape = (*shape[:-2], shape[-2] // 2, shape[-1] // 2)
        yield shape


def _dataset(number: int, letters: list[str], sizes: dict[str, float | None]) -> dict[str, Any]:
    factor = 2**number
    scale = [(sizes.get(letter) or 1.0) * (factor if letter in "yx" else 1) for letter in letters]
    # The centre of a binned pixel lies between those of the pixels that it is the mean of.
    shift = [(sizes.get(letter) or 1.0) * (factor - 1) / 2 if letter in "yx" else 0.0 for letter in letters]
    transformations: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if number:
        transformations.append({"type": "translation", "translation": shift})
    return {"path": str(number), "coordinateTransformations": transformations}


def _axis(letter: str, size: float | None) -> dict[str, str]:
    axis = {"name": letter, "type": _AXIS_TYPES[letter]}
    if size is not None:
        axis["unit"] = "micrometer"
    return axis


def _parts(shape: tuple[int, ...], chunks: tuple[int, ...], most_px: int) -> Iterator[Region]:
    side = max(1, int((most_px / max(chunks[-1] * chunks[-2], 1)) ** 0.5))
    steps = (*chunks[:-2], chunks[-2] * side, chunks[-1] * side)
    for corner in product(*(range(0, size, step) for size, step in zip(shape, steps, strict=True))):
        yield tuple(
            slice(start, min(start + step, size))
            for start, step, size in zip(corner, steps, shape, strict=True)
        )


def _halved(fine: NDArray[Any]) -> FloatArray:
    height, width = (size // 2 for size in fine.shape[-2:])
    pairs = fine.reshape(*fine.shape[:-2], height, 2, width, 2)
    mean: FloatArray = pairs.mean(axis=(-3, -1), dtype=np.float32)
    return mean
