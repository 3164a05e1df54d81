"""OME-Zarr 0.4 and 0.5 read through the ``zarr`` extra."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.io.microscope import beside_zarr, from_omero
from napari_deblur.io.units import length_um

RECORD_KEY = "napari-deblur"


def require_zarr(argument: str, path: Path) -> Any:
    """Return the zarr package.

    Raises
    ------
    InvalidInputError
        Naming the extra, if it is not installed.
    """
    try:
        import zarr
    except ImportError:
        rule = "needs the extra 'zarr' (pip install \"napari-deblur[zarr]\")"
        raise InvalidInputError(argument, rule, repr(str(path))) from None
    return zarr


def read_zarr(path: Path, argument: str = "image", *, series: int = 0) -> Image:
    """Read the full-resolution level of an OME-Zarr image.

    Parameters
    ----------
    path : Path
        Folder of the image, version 0.4 or 0.5.
    argument : str
        Name used in errors.
    series : int
        Which of the folder's multiscale images.

    Raises
    ------
    InvalidInputError
        If the extra is missing, or the folder is no such image or damaged.
    """
    level = open_level(path, argument, series=series)
    try:
        data = np.asarray(level.array[...])
    except Exception as error:  # zarr raises whatever the damaged store leads it to
        raise unreadable(path, argument, error) from error
    pixels = np.array(data.reshape([data.shape[number] for number in level.keep]), dtype=np.float32)
    return Image(pixels, source={**level.source}, **level.described())


@dataclass(frozen=True, eq=False)
class Level:
    """The full-resolution array of an OME-Zarr image, opened but not read.

    Attributes
    ----------
    array : zarr.Array
    letters : str
        One letter per axis of the array.
    sizes_um : dict
        Sizes of the axes that are lengths.
    name : str
    source : dict
        What `Image.source` holds.
    """

    array: Any
    letters: str
    sizes_um: dict[str, float | None]
    name: str
    source: dict[str, Any]

    @property
    def keep(self) -> list[int]:
        """Numbers of the axes that are not dropped: those longer than 1, y and x."""
        return [n for n, size in enumerate(self.array.shape) if size > 1 or self.letters[n] in "yx"]

    def described(self) -> dict[str, Any]:
        """Return the fields of `Image` beside its pixels and source."""
        axes = "".join(self.letters[number] for number in self.keep)
        y, x = self.sizes_um.get("y"), self.sizes_um.get("x")
        return {
            "axes": axes,
            "pixel_size_um": (y, x) if y and x else None,
            "z_step_um": self.sizes_um.get("z") if "z" in axes else None,
            "name": self.name,
        }


def open_level(path: Path, argument: str = "image", *, series: int = 0) -> Level:
    """Open the full-resolution level of an OME-Zarr image without reading its pixels.

    Raises
    ------
    InvalidInputError
        As `read_zarr`.
    """
    if not any((path / name).exists() for name in (".zattrs", ".zgroup", "zarr.json")):
        raise InvalidInputError(argument, "must be an image file or an OME-Zarr folder", repr(str(path)))
    zarr = require_zarr(argument, path)
    try:
        group = zarr.open_group(str(path), mode="r")
        attributes = _ome(group)
        if "multiscales" not in attributes and "bioformats2raw.layout" in attributes:
            group, attributes, inside = group[str(series)], _ome(group[str(series)]), 0
        else:
            inside = series
        scales = attributes.get("multiscales") or []
        if not 0 <= inside < len(scales):
            rule = f"must be below the {len(scales)} images of {path.name}"
            raise InvalidInputError("series", rule, series)
        scale = scales[inside]
        dataset = scale["datasets"][0]
        array = group[dataset["path"]]
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in scale["axes"]]
        letters = "".join(str(axis["name"])[0].lower() for axis in axes)
        if 0 in array.shape:
            shape = f"{str(path)!r}, shape {tuple(array.shape)}"
            raise InvalidInputError(argument, "must not have an axis of length 0", shape)
        if len(letters) != len(array.shape):
            rule = f"must name every axis of its array {tuple(array.shape)}"
            raise InvalidInputError("axes", rule, letters)
        name = str(scale.get("name") or path.name.removesuffix(".zarr").removesuffix(".ome"))
        sizes = _sizes(axes, dataset, scale)
    except InvalidInputError:
        raise
    except Exception as error:  # zarr raises whatever the damaged store leads it to
        raise unreadable(path, argument, error) from error
    source: dict[str, Any] = {"path": str(path), "format": "ome-zarr", "dtype": str(array.dtype)}
    microscope = from_omero((attributes.get("omero") or {}).get("channels") or [])
    microscope |= beside_zarr(path, series)
    if microscope:
        source["microscope"] = microscope
    return Level(array, letters, sizes, name, {**source, "series": len(scales)})


def unreadable(path: Path, argument: str, error: Exception) -> InvalidInputError:
    """Return the error for a store that cannot be read."""
    rule = f"must be a readable OME-Zarr image ({' '.join(str(error).split())})"
    return InvalidInputError(argument, rule, repr(str(path)))


def read_zarr_record(path: Path) -> dict[str, Any] | None:
    """Return the record that `napari_deblur.io.zarr_writer` kept, or ``None``."""
    group = require_zarr("path", path).open_group(str(path), mode="r")
    found = group.attrs.get(RECORD_KEY)
    return found if isinstance(found, dict) else None


def _ome(group: Any) -> dict[str, Any]:
    """Return the OME metadata: under a key of its own since 0.5, bare before."""
    attributes = dict(group.attrs)
    inner = attributes.get("ome")
    return inner if isinstance(inner, dict) else attributes


def _sizes(
    axes: list[dict[str, Any]], level: dict[str, Any], scale: dict[str, Any]
) -> dict[str, float | None]:
    """Return the sizes in µm of the axes that are lengths, the level's and the image's scales multiplied."""
    factors = [1.0] * len(axes)
    for holder in (level, scale):
        for transformation in holder.get("coordinateTransformations") or []:
            if transformation.get("type") == "scale":
                factors = [a * float(b) for a, b in zip(factors, transformation["scale"], strict=True)]
    return {
        str(axis["name"]).lower(): length_um(factor, axis.get("unit"))
        for axis, factor in zip(axes, factors, strict=True)
    }
