"""Write results: whole or not at all, with their sizes and their record."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_deblur.core.atomic import atomic_path, check_output
from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image, as_float32
from napari_deblur.core.record import Record

WRITE_SUFFIXES = (".tif", ".tiff", ".npy", ".png", ".zarr")
_VIEW_PERCENTILES = (0.1, 99.9)


class DepthLike(Protocol):
    """What a depth result has (see `napari_deblur.steps.depth`)."""

    @property
    def depth_um(self) -> NDArray[np.float32]:
        """Depth at the image's resolution, shape (y, x)."""

    @property
    def confidence(self) -> NDArray[np.float32]:
        """Trust, 0 to 1, shape (y, x)."""

    @property
    def calibrated(self) -> bool:
        """Whether the depth is in µm rather than relative."""

    @property
    def record(self) -> Record:
        """Provenance."""

    @property
    def pixel_size_um(self) -> tuple[float, float] | None:
        """Pixel size along y and x."""


def write_image(
    image: Image,
    path: str | os.PathLike[str],
    record: Record | dict[str, Any] | None = None,
    overwrite: bool = False,
    argument: str = "output",
) -> Path:
    """Write an image; the suffix of the path chooses the format.

    Parameters
    ----------
    image : Image
    path : path-like
        ``.tif``/``.tiff`` (OME-TIFF, float32), ``.npy`` (float32, record in ``<name>.json`` beside it),
        ``.zarr`` (OME-Zarr, float32; extra 'zarr'), or ``.png`` (8 bit, stretched: for looking at only).
    record : Record or dict, optional
        Provenance; `napari_deblur.io.read.read_record` gives it back.
    overwrite : bool
        Whether a file that exists may be replaced.
    argument : str
        Name used in errors.

    Returns
    -------
    Path
        Where it lies.

    Raises
    ------
    OutputError
        If it cannot be written; nothing half-written stays behind.
    InvalidInputError
        If the suffix is unknown, or the image does not fit the format.
    """
    suffix = check_image_path(path, overwrite=overwrite, argument=argument)
    provenance = record.to_dict() if isinstance(record, Record) else record
    with atomic_path(path, overwrite, argument) as temporary:
        if suffix in (".tif", ".tiff"):
            from napari_deblur.io.tiff import write_tiff

            write_tiff(image, temporary, provenance)
        elif suffix == ".zarr":
            from napari_deblur.io.ome_zarr import write_zarr

            write_zarr(image, temporary, provenance)
        elif suffix == ".npy":
            np.save(temporary, image.data, allow_pickle=False)
        else:
            _write_picture(image, temporary, provenance)
    target = Path(path).expanduser()
    if suffix == ".npy" and provenance is not None:
        write_json(provenance, target.with_name(target.name + ".json"), overwrite=True)
    return target


def check_image_path(path: str | os.PathLike[str], *, overwrite: bool, argument: str = "output") -> str:
    """Check before a long run that its result can be written, and return the format's suffix.

    Raises
    ------
    OutputError, InvalidInputError
        As `write_image`.
    """
    target = check_output(path, overwrite=overwrite, argument=argument)
    suffix = target.suffix.lower()
    if suffix not in WRITE_SUFFIXES:
        raise InvalidInputError(
            argument, f"must end in one of {', '.join(WRITE_SUFFIXES)}", repr(str(target))
        )
    if suffix == ".zarr":
        from napari_deblur.io.ome_zarr import require_zarr

        require_zarr(argument, target)
    return suffix


def write_psf(
    psf: ArrayLike,
    path: str | os.PathLike[str],
    *,
    pixel_size_um: tuple[float, float] | None = None,
    record: Record | dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a PSF as an image (``.tif``, ``.npy``, …) that `read_psf` reads back unchanged.

    Parameters
    ----------
    psf : array_like, shape ([z,] y, x)
    path : path-like
    pixel_size_um : tuple of float, optional
        Pixel size along y and x.
    record : Record or dict, optional
    overwrite : bool

    Raises
    ------
    OutputError, InvalidInputError
        As `write_image`.
    """
    image = Image(as_float32(psf, "psf"), pixel_size_um=pixel_size_um, name="PSF")
    return write_image(image, path, record, overwrite)


def write_depth(
    result: DepthLike,
    path: str | os.PathLike[str],
    *,
    pixel_size_um: tuple[float, float] | None = None,
    confidence: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a depth map as float32 OME-TIFF whose name and record state the unit.

    Parameters
    ----------
    result : DepthLike
        Its depth is written as µm if calibrated, else as relative depth.
    path : path-like
    pixel_size_um : tuple of float, optional
        Pixel size along y and x; the result's own when not given.
    confidence : bool
        Whether to write the confidence in place of the depth.
    overwrite : bool

    Raises
    ------
    OutputError, InvalidInputError
        As `write_image`.
    """
    unit = "µm" if result.calibrated else "relative"
    name = "confidence (0 to 1)" if confidence else f"depth ({unit})"
    values = result.confidence if confidence else result.depth_um
    record = {**result.record.to_dict(), "quantity": name, "unit": "" if confidence else unit}
    image = Image(
        np.asarray(values, dtype=np.float32),
        axes="yx",
        pixel_size_um=pixel_size_um or result.pixel_size_um,
        name=name,
    )
    return write_image(image, path, record, overwrite)


def write_json(
    value: dict[str, Any], path: str | os.PathLike[str], *, overwrite: bool = False, argument: str = "output"
) -> Path:
    """Write JSON text.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with atomic_path(path, overwrite, argument) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Path(path).expanduser()


def _write_picture(image: Image, path: Path, record: dict[str, Any] | None) -> None:
    from PIL import Image as PillowImage
    from PIL.PngImagePlugin import PngInfo

    if image.data.ndim != 2:
        raise InvalidInputError(
            "output",
            "must end in .tif, .npy or .zarr for an image with more than two axes",
            str(image.data.shape),
        )
    low, high = np.percentile(image.data, _VIEW_PERCENTILES)
    grey = np.clip((image.data - low) / max(float(high - low), 1e-12), 0, 1)
    text = PngInfo()
    if record is not None:
        text.add_itxt("napari-deblur", json.dumps(record, ensure_ascii=False))
    picture = PillowImage.fromarray(np.round(255 * grey).astype(np.uint8))
    picture.save(path, format="PNG", pnginfo=text)
