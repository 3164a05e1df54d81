"""TIFF: OME, ImageJ hyperstacks, LSM and plain files, with axes and pixel sizes; results as OME-TIFF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.io.numbers import Dtype, as_stored
from napari_deblur.io.tiff_header import (
    arrangement,
    check_series,
    complaints,
    describe,
    one_line,
    pick_series,
)

if TYPE_CHECKING:
    import tifffile

RECORD_NAMESPACE = "napari-deblur/record"
_MEMMAP_FROM_BYTES = 2**28
# Such a file counts its bytes with 32 bits; a little is left for what describes it.
_LARGEST_IMAGEJ_BYTES = 2**32 - 2**22


def read_tiff(path: Path, argument: str = "image", *, series: int = 0) -> Image:
    """Read one series of a TIFF file.

    Parameters
    ----------
    path : Path
    argument : str
        Name used in errors.
    series : int
        Which of the file's images to read.

    Returns
    -------
    Image
        In the file's own axes, singleton ones dropped; sizes in µm where the file states them in a unit of
        length.

    Raises
    ------
    InvalidInputError
        If the file is damaged, of an unknown kind, in colour, or has no such series.
    """
    import tifffile

    try:
        with complaints(path, argument), tifffile.TiffFile(path) as file:
            chosen = pick_series(file, path, series)
            described = describe(file, series, path)
            data = _pixels(path, file, chosen, argument)
            axes = str(chosen.axes)
    except InvalidInputError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # tifffile raises whatever the damaged bytes lead it to
        rule = f"must be a readable TIFF file ({one_line(error)})"
        raise InvalidInputError(argument, rule, repr(str(path))) from error
    data, axes = _arrange(data, axes)
    return Image(
        data, axes=axes, **{**described, "z_step_um": described["z_step_um"] if "z" in axes else None}
    )


def write_tiff(
    image: Image,
    path: Path,
    record: dict[str, Any] | None,
    title: str | None = None,
    *,
    dtype: Dtype = "float32",
) -> None:
    """Write an image as OME-TIFF, sizes in µm, the record as an OME comment annotation.

    Parameters
    ----------
    image : Image
    path : Path
        Where to write to, as it is; see `napari_deblur.core.atomic`.
    record : dict or None
        Provenance (JSON types).
    title : str, optional
        Name of the image in the file.
    dtype : {"float32", "uint16"}
    """
    import tifffile

    text = None if record is None else json.dumps(record, ensure_ascii=False)
    metadata = ome_metadata(image, text, title)
    pixels = as_stored(image.data, dtype)
    tifffile.imwrite(path, pixels, ome=True, photometric="minisblack", metadata=metadata)


def ome_metadata(image: Image, record: str | None, title: str | None = None) -> dict[str, Any]:
    """Return what tifffile puts into the OME-XML: axes, sizes in µm, name, and a record's text."""
    metadata: dict[str, Any] = {"axes": _ome_axes(image.axes), "Name": _plain_name(title or image.name)}
    sizes = (image.z_step_um, *(image.pixel_size_um or (None, None)))
    for letter, size in zip("ZYX", sizes, strict=True):
        if size is not None:
            metadata[f"PhysicalSize{letter}"] = size
            metadata[f"PhysicalSize{letter}Unit"] = "µm"
    if record is not None:
        metadata["CommentAnnotation"] = {"Namespace": RECORD_NAMESPACE, "Value": xml_text(record)}
    return metadata


def write_imagej(
    image: Image, path: Path, record: dict[str, Any] | None, *, dtype: Dtype = "float32"
) -> None:
    """Write an image as ImageJ hyperstack, sizes in µm, the record in its info.

    Parameters
    ----------
    image : Image
        Axes that ImageJ does not know take the free names of time, planes and channels.
    path : Path
        Where to write to, as it is; see `napari_deblur.core.atomic`.
    record : dict or None
        Provenance (JSON types).
    dtype : {"float32", "uint16"}

    Raises
    ------
    InvalidInputError
        If the image is larger than such a file can be.
    """
    import tifffile

    size = image.data.size * np.dtype(dtype).itemsize
    if size >= _LARGEST_IMAGEJ_BYTES:
        rule = "must be another than imagej-tiff for images of 4 GB and more"
        raise InvalidInputError("format", rule, f"{size / 1e9:.3g} GB")
    axes = _ome_axes(image.axes)
    order = [axes.index(letter) for letter in "TZCYX" if letter in axes]
    metadata: dict[str, Any] = {"axes": "".join(axes[number] for number in order), "unit": "micron"}
    if image.z_step_um is not None:
        metadata["spacing"] = image.z_step_um
    if record is not None:
        metadata["Info"] = json.dumps({RECORD_NAMESPACE: record})
    resolution = None
    if image.pixel_size_um is not None:
        y, x = image.pixel_size_um
        resolution = (1 / x, 1 / y)
    else:
        del metadata["unit"]
    data = as_stored(np.ascontiguousarray(image.data.transpose(order)), dtype)
    tifffile.imwrite(path, data, imagej=True, resolution=resolution, metadata=metadata)


def read_tiff_record(path: Path) -> dict[str, Any] | None:
    """Return the record embedded in an OME-TIFF or ImageJ TIFF, or ``None``."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        xml = file.ome_metadata
        info = (file.imagej_metadata or {}).get("Info") if file.is_imagej else None
    if isinstance(info, str) and RECORD_NAMESPACE in info:
        kept = json.loads(info).get(RECORD_NAMESPACE)
        return kept if isinstance(kept, dict) else None
    if not xml:
        return None
    for annotation in ElementTree.fromstring(xml).iter():
        if annotation.get("Namespace") == RECORD_NAMESPACE:
            for child in annotation:
                if child.tag.endswith("}Value") and child.text:
                    found: dict[str, Any] = json.loads(child.text)
                    return found
    return None


def _pixels(
    path: Path, file: tifffile.TiffFile, series: tifffile.TiffPageSeries, argument: str
) -> NDArray[np.float32]:
    check_series(path, file, series, argument)
    # Large plain files are converted from a memory map, so that they are not held twice.
    mapped = series.dataoffset is not None and series.nbytes >= _MEMMAP_FROM_BYTES
    try:
        raw = series.asarray(out="memmap" if mapped else None)
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        raw = _with_pillow(path, series)
    return np.array(raw, dtype=np.float32)


def _with_pillow(path: Path, series: tifffile.TiffPageSeries) -> NDArray[Any]:
    """Read compressions (LZW above all) that tifffile leaves to a package that we do not require."""
    from PIL import Image as PillowImage
    from PIL import ImageSequence

    with PillowImage.open(path) as file:
        planes = [np.array(frame) for frame in ImageSequence.Iterator(file)]
    wanted = [one.index for one in series.pages if one is not None]
    return np.stack([planes[number] for number in wanted]).astype(series.dtype).reshape(series.shape)


def _arrange(data: NDArray[np.float32], axes: str) -> tuple[NDArray[np.float32], str]:
    """Drop singleton axes, and bring y and x to the end."""
    order, letters = arrangement(data.shape, axes)
    rest = tuple(number for number in range(data.ndim) if number not in order)
    moved = data.transpose((*rest, *order))
    return np.ascontiguousarray(moved.reshape(moved.shape[len(rest) :])), letters


def _ome_axes(axes: str) -> str:
    """Name axes as OME knows them: unknown ones take the free letters of T, Z and C."""
    free = [letter for letter in "tzc" if letter not in axes]
    named = [letter if letter in "tzcyx" else free.pop(0) for letter in axes]
    return "".join(named).upper()


def xml_text(text: str) -> str:
    """Drop the control characters that XML cannot hold."""
    return "".join(letter for letter in text if letter >= " " and letter not in "\ufffe\uffff")


def _plain_name(text: str) -> str:
    """Avoid what tifffile before 2026.2 forgets to escape in a name."""
    return xml_text(text).translate(str.maketrans('<>&"', "()+'"))
