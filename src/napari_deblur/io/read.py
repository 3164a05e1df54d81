"""Read images, PSFs and records from files."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import FloatArray, Image, as_float32

TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".lsm")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
IMAGE_SUFFIXES = (*TIFF_SUFFIXES, *PICTURE_SUFFIXES, ".npy", ".zarr")
_GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")


def read_image(
    path: str | os.PathLike[str], argument: str = "image", *, axes: str | None = None, series: int = 0
) -> Image:
    """Read an image with its axes and pixel size.

    Parameters
    ----------
    path : path-like
        A TIFF (OME, ImageJ, LSM or plain), PNG, JPEG, BMP or NPY file, or an OME-Zarr folder; files of
        other kinds through the napari plugins that are installed.
    argument : str
        Name used in errors.
    axes : str, optional
        One letter per axis, the last two ``yx``, where the file's own naming is missing or wrong.
    series : int
        Which image of a TIFF or OME-Zarr that holds several.

    Returns
    -------
    Image
        float32, shape (…, y, x), sizes in µm where the file states them; unnamed pages are taken as planes.

    Raises
    ------
    InvalidInputError
        If the path is missing, a folder, of an unknown kind, damaged, or in colour.
    """
    source = existing(path, argument)
    suffix = source.suffix.lower()
    if suffix == ".zarr" or source.is_dir():
        from napari_deblur.io.ome_zarr import read_zarr

        image = read_zarr(source, argument, series=series)
    elif suffix in TIFF_SUFFIXES:
        from napari_deblur.io.tiff import read_tiff

        image = read_tiff(source, argument, series=series)
    elif suffix in PICTURE_SUFFIXES:
        image = Image(_read_picture(source, argument), name=source.stem, source={"path": str(source)})
    elif suffix == ".npy":
        data = _read_array(source, argument)
        image = _named(data, source, argument)
    else:
        from napari_deblur.io.plugins import read_with_plugins

        found = read_with_plugins(source, argument, series=series)
        if found is None:
            rule = f"must end in one of {', '.join(IMAGE_SUFFIXES)}, or be read by a napari plugin"
            raise InvalidInputError(argument, rule, repr(str(source)))
        image = found
    if axes is None:
        return image
    letters = axes.lower()
    if len(set(letters)) != len(letters) or not letters.isalpha():
        raise InvalidInputError("axes", "must have one different letter per axis", axes)
    return replace(image, axes=letters)


def read_psf(path: str | os.PathLike[str], argument: str = "psf") -> FloatArray:
    """Read a PSF as an array; whoever uses it checks that it is one.

    Parameters
    ----------
    path : path-like
        An image file or ``.npy``.
    argument : str
        Name used in errors.

    Returns
    -------
    ndarray, float32, shape ([z,] y, x)

    Raises
    ------
    InvalidInputError
        As `read_image`.
    """
    source = existing(path, argument)
    if source.suffix.lower() == ".npy":
        return as_float32(_read_array(source, argument), argument)
    return read_image(source, argument).data


def read_record(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the record that a result carries.

    Parameters
    ----------
    path : path-like
        A TIFF, PNG or OME-Zarr that `write_image` wrote, a ``.npy`` with its ``.json`` beside it, or the
        JSON itself.

    Returns
    -------
    dict or None
        ``None`` where there is none.

    Raises
    ------
    InvalidInputError
        If the path is missing or cannot be read.
    """
    source = existing(path, "path")
    suffix = source.suffix.lower()
    try:
        if source.is_dir():
            from napari_deblur.io.ome_zarr import read_zarr_record

            return read_zarr_record(source)
        if suffix in TIFF_SUFFIXES:
            from napari_deblur.io.tiff import read_tiff_record

            return read_tiff_record(source)
        if suffix == ".png":
            from PIL import Image as PillowImage

            with PillowImage.open(source) as picture:
                text = picture.info.get("napari-deblur")
            return json.loads(text) if text else None
        beside = source if suffix == ".json" else source.with_name(source.name + ".json")
        found = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else None
    except InvalidInputError:
        raise
    except Exception as error:  # damaged files fail in as many ways as there are libraries
        rule = f"must be a readable result ({' '.join(str(error).split())})"
        raise InvalidInputError("path", rule, repr(str(source))) from error
    return found if isinstance(found, dict) else None


def existing(path: str | os.PathLike[str], argument: str) -> Path:
    """Return the path if something is there that can be opened.

    Raises
    ------
    InvalidInputError
    """
    source = Path(path).expanduser()
    try:
        found = source.exists()
    except OSError:  # a name too long to exist
        found = False
    if not found:
        raise InvalidInputError(argument, "must be a file that exists", repr(str(source)))
    if not os.access(source, os.R_OK):
        raise InvalidInputError(argument, "must be a file that can be read", repr(str(source)))
    return source


def _named(data: NDArray[Any], source: Path, argument: str) -> Image:
    """Wrap an array that says nothing of itself."""
    from napari_deblur.core.image import as_image

    if not 2 <= data.ndim <= 5:
        raise InvalidInputError(
            argument, "must have 2 to 5 axes, the last two y and x", f"{str(source)!r}, shape {data.shape}"
        )
    pixels = as_float32(data, argument)
    if pixels.min() != pixels.max():  # a constant one may be a PSF, and is refused where it is an image
        pixels = as_image(data, argument, smallest_px=1).data
    return Image(pixels, name=source.stem, source={"path": str(source), "dtype": str(data.dtype)})


def _read_array(path: Path, argument: str) -> NDArray[Any]:
    try:
        loaded: NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        reason = "it holds Python objects" if "allow_pickle" in str(error) else " ".join(str(error).split())
        rule = f"must be a complete NPY file of numbers ({reason})"
        raise InvalidInputError(argument, rule, repr(str(path))) from error
    return loaded


def _read_picture(path: Path, argument: str) -> FloatArray:
    from PIL import Image as PillowImage

    try:
        with PillowImage.open(path) as file:
            file.load()
            opaque = file.mode == "LA" and file.getextrema()[1] == (255, 255)
            picture = file.getchannel("L") if opaque else file
            pixels, mode = np.asarray(picture), picture.mode
    except Exception as error:  # Pillow raises whatever the damaged bytes lead it to
        rule = f"must be a readable picture ({' '.join(str(error).split())})"
        raise InvalidInputError(argument, rule, repr(str(path))) from error
    if mode not in _GREY_MODES:
        raise InvalidInputError(
            argument,
            "must be single-channel: split the colours into separate images first",
            f"{str(path)!r}, in colour ({mode})",
        )
    return as_float32(pixels, argument)
