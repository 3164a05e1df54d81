"""OME-Zarr 0.4 and 0.5 through the ``zarr`` extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.io.units import length_um

RECORD_KEY = "napari-deblur"
_COARSEST_PX = 256
_AXIS_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}


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
    if not any((path / name).exists() for name in (".zattrs", ".zgroup", "zarr.json")):
        raise InvalidInputError(argument, "must be an image file or an OME-Zarr folder", repr(str(path)))
    zarr = require_zarr(argument, path)
    try:
        group = zarr.open_group(str(path), mode="r")
        scales = _ome(group).get("multiscales") or []
        if not 0 <= series < len(scales):
            rule = f"must be below the {len(scales)} images of {path.name}"
            raise InvalidInputError("series", rule, series)
        scale = scales[series]
        level = scale["datasets"][0]
        array = group[level["path"]]
        data = np.asarray(array[...])
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in scale["axes"]]
        name = str(scale.get("name") or path.name.removesuffix(".zarr").removesuffix(".ome"))
    except InvalidInputError:
        raise
    except Exception as error:  # zarr raises whatever the damaged store leads it to
        rule = f"must be a readable OME-Zarr image ({' '.join(str(error).split())})"
        raise InvalidInputError(argument, rule, repr(str(path))) from error
    sizes = _sizes(axes, level, scale)
    letters = "".join(str(axis["name"])[0].lower() for axis in axes)
    keep = [number for number, size in enumerate(data.shape) if size > 1 or letters[number] in "yx"]
    pixels = np.array(data.reshape([data.shape[number] for number in keep]), dtype=np.float32)
    y, x = sizes.get("y"), sizes.get("x")
    return Image(
        pixels,
        axes="".join(letters[number] for number in keep),
        pixel_size_um=(y, x) if y and x else None,
        z_step_um=sizes.get("z") if "z" in (letters[number] for number in keep) else None,
        name=name,
        source={"path": str(path), "format": "ome-zarr", "dtype": str(data.dtype), "series": len(scales)},
    )


def write_zarr(image: Image, path: Path, record: dict[str, Any] | None) -> None:
    """Write an image as float32 OME-Zarr 0.4, with a pyramid of 2 × 2 means and sizes in µm.

    Parameters
    ----------
    image : Image
        Its axes must be among ``tczyx``.
    path : Path
        Folder to write, as it is; see `napari_deblur.core.atomic`.
    record : dict or None
        Provenance (JSON types), kept in the group's attributes.

    Raises
    ------
    InvalidInputError
        If the extra is missing or the axes cannot be told.
    """
    zarr = require_zarr("output", path)
    order = [letter for letter in "tczyx" if letter in image.axes]
    if len(order) != len(image.axes):
        raise InvalidInputError("axes", "must be among t, c, z, y, x for OME-Zarr", image.axes)
    level = image.data.transpose([image.axes.index(letter) for letter in order])
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    sizes = dict(zip("zyx", (image.z_step_um, *(image.pixel_size_um or (None, None))), strict=True))
    datasets: list[dict[str, Any]] = []
    factor = 1
    while True:
        number = str(len(datasets))
        chunks = (*(1,) * (level.ndim - 2), *(min(size, 1024) for size in level.shape[-2:]))
        array = group.create_array(
            number,
            shape=level.shape,
            chunks=chunks,
            dtype="float32",
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )
        array[...] = level
        scale = [(sizes.get(letter) or 1.0) * (factor if letter in "yx" else 1) for letter in order]
        # The centre of a binned pixel lies between those of the pixels that it is the mean of.
        shift = [(sizes.get(letter) or 1.0) * (factor - 1) / 2 if letter in "yx" else 0.0 for letter in order]
        transformations: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if factor > 1:
            transformations.append({"type": "translation", "translation": shift})
        datasets.append({"path": number, "coordinateTransformations": transformations})
        if min(level.shape[-2:]) < 2 * _COARSEST_PX:
            break
        level, factor = _halve(level), factor * 2
    axes = [_axis(letter, sizes.get(letter)) for letter in order]
    group.attrs["multiscales"] = [
        {"version": "0.4", "name": image.name, "axes": axes, "datasets": datasets, "type": "mean"}
    ]
    if record is not None:
        group.attrs[RECORD_KEY] = record


def read_zarr_record(path: Path) -> dict[str, Any] | None:
    """Return the record that `write_zarr` kept, or ``None``."""
    group = require_zarr("path", path).open_group(str(path), mode="r")
    found = group.attrs.get(RECORD_KEY)
    return found if isinstance(found, dict) else None


def _ome(group: Any) -> dict[str, Any]:
    """Return the OME metadata: under a key of its own since 0.5, bare before."""
    attributes = dict(group.attrs)
    inner = attributes.get("ome")
    return inner if isinstance(inner, dict) else attributes


def _axis(letter: str, size: float | None) -> dict[str, str]:
    axis = {"name": letter, "type": _AXIS_TYPES[letter]}
    if size is not None:
        axis["unit"] = "micrometer"
    return axis


def _halve(level: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = (size // 2 * 2 for size in level.shape[-2:])
    even = level[..., :height, :width]
    binned = even.reshape(*level.shape[:-2], height // 2, 2, width // 2, 2)
    mean: NDArray[np.float32] = binned.mean(axis=(-3, -1), dtype=np.float32)
    return mean


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
