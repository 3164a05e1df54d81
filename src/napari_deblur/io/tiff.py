"""TIFF: OME, ImageJ hyperstacks, LSM and plain files, with axes and pixel sizes; results as OME-TIFF."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.io.units import length_um

if TYPE_CHECKING:
    import tifffile

RECORD_NAMESPACE = "napari-deblur/record"
_MEMMAP_FROM_BYTES = 2**28
# Coarser than this, a resolution given per inch or cm is that of a screen or a printer, not of a microscope.
_COARSEST_PLAIN_UM = 10.0
Sizes = tuple[float | None, float | None, float | None]


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
        with _complaints(path, argument), tifffile.TiffFile(path) as file:
            if not 0 <= series < len(file.series):
                raise InvalidInputError("series", f"must be below {len(file.series)} for {path.name}", series)
            chosen = file.series[series]
            sizes, kind = _sizes(file, series)
            data = _pixels(path, file, chosen, argument)
            axes = str(chosen.axes)
            source = {
                "path": str(path),
                "format": kind,
                "dtype": str(chosen.dtype),
                "series": len(file.series),
            }
    except InvalidInputError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # tifffile raises whatever the damaged bytes lead it to
        rule = f"must be a readable TIFF file ({_one_line(error)})"
        raise InvalidInputError(argument, rule, repr(str(path))) from error
    data, axes = _arrange(data, axes)
    z, y, x = sizes
    return Image(
        data,
        axes=axes,
        pixel_size_um=(y, x) if y and x else None,
        z_step_um=z if "z" in axes else None,
        name=_stem(path),
        source=source,
    )


def write_tiff(image: Image, path: Path, record: dict[str, Any] | None, title: str | None = None) -> None:
    """Write an image as float32 OME-TIFF, sizes in µm, the record as an OME comment annotation.

    Parameters
    ----------
    image : Image
    path : Path
        Where to write to, as it is; see `napari_deblur.core.atomic`.
    record : dict or None
        Provenance (JSON types).
    title : str, optional
        Name of the image in the file.
    """
    import tifffile

    metadata: dict[str, Any] = {"axes": _ome_axes(image.axes), "Name": _plain_name(title or image.name)}
    sizes = (image.z_step_um, *(image.pixel_size_um or (None, None)))
    for letter, size in zip("ZYX", sizes, strict=True):
        if size is not None:
            metadata[f"PhysicalSize{letter}"] = size
            metadata[f"PhysicalSize{letter}Unit"] = "µm"
    if record is not None:
        text = _xml_text(json.dumps(record, ensure_ascii=False))
        metadata["CommentAnnotation"] = {"Namespace": RECORD_NAMESPACE, "Value": text}
    tifffile.imwrite(path, image.data, ome=True, photometric="minisblack", metadata=metadata)


def read_tiff_record(path: Path) -> dict[str, Any] | None:
    """Return the record embedded in an OME-TIFF, or ``None``."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        xml = file.ome_metadata
    if not xml:
        return None
    for annotation in ElementTree.fromstring(xml).iter():
        if annotation.get("Namespace") == RECORD_NAMESPACE:
            for child in annotation:
                if child.tag.endswith("}Value") and child.text:
                    found: dict[str, Any] = json.loads(child.text)
                    return found
    return None


@contextmanager
def _complaints(path: Path, argument: str) -> Iterator[None]:
    """Make errors of damage that tifffile only logs, giving zeros or fewer pages instead."""
    heard: list[str] = []

    class Listener(logging.Handler):
        def emit(self, entry: logging.LogRecord) -> None:
            heard.append(entry.getMessage())

    logger = logging.getLogger("tifffile")
    listener = Listener(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(listener)
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.propagate = propagate
    for text in heard:
        if any(word in text for word in ("corrupt", "missing", "invalid page", "truncat", "failed to")):
            rule = f"must be a complete TIFF file ({_one_line(text)})"
            raise InvalidInputError(argument, rule, repr(str(path)))


def _pixels(
    path: Path, file: tifffile.TiffFile, series: tifffile.TiffPageSeries, argument: str
) -> NDArray[np.float32]:
    import tifffile

    page = series.keyframe
    if page.photometric in (2, 5, 6, 8) and (page.samplesperpixel >= 3 or "S" in series.axes):
        raise InvalidInputError(
            argument,
            "must be single-channel: split the colours into separate images first",
            f"{str(path)!r}, in colour ({tifffile.PHOTOMETRIC(page.photometric).name}, shape {series.shape})",
        )
    if np.dtype(series.dtype).kind not in "buif":
        raise InvalidInputError(argument, "must hold real numbers", f"{str(path)!r}, dtype {series.dtype}")
    missing = [number for number, one in enumerate(series.pages) if one is None]
    if missing:
        rule = f"must be a complete TIFF file ({len(missing)} planes are missing)"
        raise InvalidInputError(argument, rule, repr(str(path)))
    if series.dataoffset is not None and series.dataoffset + series.nbytes > file.filehandle.size:
        raise InvalidInputError(argument, "must be a complete TIFF file (it is cut off)", repr(str(path)))
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
    """Drop singleton axes, bring y and x to the end, and name unnamed axes as arrays without names are."""
    axes = axes.lower()
    if "y" not in axes or "x" not in axes:
        axes = "qrwuv"[: data.ndim - 2] + "yx"
    keep = [number for number, size in enumerate(data.shape) if size > 1 or axes[number] in "yx"]
    data = data.reshape([data.shape[number] for number in keep])
    axes = "".join(axes[number] for number in keep)
    # Samples of a grey file are channels; pages that nobody named are planes.
    for unnamed, name in (("s", "c"), ("i", "z"), ("q", "z")):
        if unnamed in axes and name not in axes:
            axes = axes.replace(unnamed, name)
    order = [number for number, name in enumerate(axes) if name not in "yx"] + [
        axes.index("y"),
        axes.index("x"),
    ]
    return np.ascontiguousarray(data.transpose(order)), "".join(axes[number] for number in order)


def _sizes(file: tifffile.TiffFile, series: int) -> tuple[Sizes, str]:
    """Return what the file says of its sizes along z, y and x in µm, and which kind of file it is."""
    if file.is_ome and file.ome_metadata:
        return _ome_sizes(file.ome_metadata, series), "ome-tiff"
    page = file.pages.first
    resolution = [_per_pixel(page, name) for name in ("YResolution", "XResolution")]
    if file.is_imagej and file.imagej_metadata is not None:
        meta = file.imagej_metadata
        unit = str(meta.get("unit", ""))
        y, x = (length_um(size, unit) for size in resolution)
        return (length_um(meta.get("spacing"), unit), y, x), "imagej"
    if file.is_lsm and file.lsm_metadata:
        z, y, x = (length_um(file.lsm_metadata.get(f"VoxelSize{letter}"), "m") for letter in "ZYX")
        return (z, y, x), "lsm"
    tag = page.tags.get("ResolutionUnit")
    unit = {2: "inch", 3: "cm"}.get(int(tag.value) if tag else 1, "")
    y, x = (length_um(size, unit) for size in resolution)
    if not (y and x) or max(y, x) > _COARSEST_PLAIN_UM:
        y = x = None
    return (None, y, x), "tiff"


def _per_pixel(page: Any, name: str) -> float | None:
    tag = page.tags.get(name)
    if tag is None:
        return None
    top, bottom = tag.value
    return bottom / top if top else None


def _ome_sizes(xml: str, series: int) -> Sizes:
    try:
        pixels = [node for node in ElementTree.fromstring(xml).iter() if node.tag.endswith("}Pixels")]
    except ElementTree.ParseError:  # tifffile reads the pixels nevertheless
        pixels = []
    if series >= len(pixels):
        return None, None, None
    node = pixels[series]
    z, y, x = (
        length_um(node.get(f"PhysicalSize{letter}"), node.get(f"PhysicalSize{letter}Unit", "µm"))
        for letter in "ZYX"
    )
    return z, y, x


def _ome_axes(axes: str) -> str:
    """Name axes as OME knows them: unknown ones take the free letters of T, Z and C."""
    free = [letter for letter in "tzc" if letter not in axes]
    named = [letter if letter in "tzcyx" else free.pop(0) for letter in axes]
    return "".join(named).upper()


def _xml_text(text: str) -> str:
    """Drop the control characters that XML cannot hold."""
    return "".join(letter for letter in text if letter >= " " and letter not in "\ufffe\uffff")


def _plain_name(text: str) -> str:
    """Avoid what tifffile before 2026.2 forgets to escape in a name."""
    return _xml_text(text).translate(str.maketrans('<>&"', "()+'"))


def _stem(path: Path) -> str:
    return path.stem.removesuffix(".ome")


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
