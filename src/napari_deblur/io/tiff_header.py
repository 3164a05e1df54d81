"""What a TIFF file says of itself: its images, axes and sizes, and whether it is whole."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.io.microscope import from_ome_xml
from napari_deblur.io.units import length_um

if TYPE_CHECKING:
    import tifffile

# Coarser than this, a resolution given per inch or cm is that of a screen or a printer, not of a microscope.
_COARSEST_PLAIN_UM = 10.0
Sizes = tuple[float | None, float | None, float | None]


def pick_series(file: tifffile.TiffFile, path: Path, series: int) -> tifffile.TiffPageSeries:
    """Return one of a file's images.

    Raises
    ------
    InvalidInputError
        If it has none of that number.
    """
    if not 0 <= series < len(file.series):
        raise InvalidInputError("series", f"must be below {len(file.series)} for {path.name}", series)
    return file.series[series]


def describe(file: tifffile.TiffFile, series: int, path: Path) -> dict[str, Any]:
    """Return the fields of `Image` beside its pixels and axes."""
    (z, y, x), kind = _sizes(file, series)
    microscope = from_ome_xml(file.ome_metadata, series) if file.is_ome and file.ome_metadata else {}
    return {
        "pixel_size_um": (y, x) if y and x else None,
        "z_step_um": z,
        "name": path.stem.removesuffix(".ome"),
        "source": {
            "path": str(path),
            "format": kind,
            "dtype": str(file.series[series].dtype),
            "series": len(file.series),
            **({"microscope": microscope} if microscope else {}),
        },
    }


@contextmanager
def complaints(path: Path, argument: str) -> Iterator[None]:
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
            rule = f"must be a complete TIFF file ({one_line(text)})"
            raise InvalidInputError(argument, rule, repr(str(path)))


def check_series(path: Path, file: tifffile.TiffFile, series: tifffile.TiffPageSeries, argument: str) -> None:
    """Refuse colour, numbers that are not real, and files that are cut off."""
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


def arrangement(shape: tuple[int, ...], axes: str) -> tuple[tuple[int, ...], str]:
    """Return which axes to keep, y and x last, and their names; unnamed ones get those of plain arrays."""
    axes = axes.lower()
    if "y" not in axes or "x" not in axes:
        axes = "qrwuv"[: len(shape) - 2] + "yx"
    keep = [number for number, size in enumerate(shape) if size > 1 or axes[number] in "yx"]
    order = [n for n in keep if axes[n] not in "yx"] + [axes.index("y"), axes.index("x")]
    letters = "".join(axes[number] for number in order)
    # Samples of a grey file are channels; pages that nobody named are planes.
    for unnamed, name in (("s", "c"), ("i", "z"), ("q", "z")):
        if unnamed in letters and name not in letters:
            letters = letters.replace(unnamed, name)
    return tuple(order), letters


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


def one_line(error: object) -> str:
    """Return an error's text without line breaks; its name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
