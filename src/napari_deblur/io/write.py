"""Write results: whole or not at all, with their sizes and their record."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_deblur.core.atomic import atomic_path, check_output
from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image, as_float32
from napari_deblur.core.record import Record
from napari_deblur.io.formats import output_format
from napari_deblur.io.numbers import Dtype, as_stored, check_dtype, with_dtype

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
    *,
    format: str | None = None,
    dtype: Dtype = "float32",
) -> Path:
    """Write an image; the suffix of the path chooses the format, where none is asked for.

    Parameters
    ----------
    image : Image
    path : path-like
        ``.tif``/``.tiff`` (OME-TIFF), ``.npy`` (record in ``<name>.json`` beside it), ``.zarr``
        (OME-Zarr 0.4; extra 'zarr'), or ``.png`` (8 bit, stretched: for looking at only).
    record : Record or dict, optional
        Provenance; `napari_deblur.io.read.read_record` gives it back.
    overwrite : bool
        Whether a file that exists may be replaced.
    argument : str
        Name used in errors.
    format : str, optional
        One of `napari_deblur.io.formats.FORMATS` that goes with the suffix.
    dtype : {"float32", "uint16"}
        Numbers in the file; whole ones are rounded to, and the record says so.

    Returns
    -------
    Path
        Where it lies.

    Raises
    ------
    OutputError
        If it cannot be written; nothing half-written stays behind.
    InvalidInputError
        If the suffix is unknown, or the image does not fit the format or the numbers.
    """
    kind = check_image_path(path, overwrite=overwrite, argument=argument, format=format)
    check_dtype(dtype, image.source, kind)
    provenance = record.to_dict() if isinstance(record, Record) else record
    if provenance is not None:
        provenance = with_dtype(provenance, dtype)
    with atomic_path(path, overwrite, argument) as temporary:
        _WRITERS[kind](image, temporary, provenance, dtype)
    target = Path(path).expanduser()
    if kind == "npy" and provenance is not None:
        write_json(provenance, _beside(target), overwrite=overwrite, argument=argument)
    return target


def check_image_path(
    path: str | os.PathLike[str],
    *,
    overwrite: bool,
    argument: str = "output",
    format: str | None = None,
) -> str:
    """Check before a long run that its result can be written, and return the format.

    Raises
    ------
    OutputError, InvalidInputError
        As `write_image`.
    """
    target = check_output(path, overwrite=overwrite, argument=argument)
    kind = output_format(target, format, argument=argument)
    if kind.startswith("ome-zarr"):
        from napari_deblur.io.ome_zarr import require_zarr

        require_zarr(argument, target)
    if kind == "npy":  # which holds no record: it lies beside, and one that lies there would tell of this
        check_output(_beside(target), overwrite=overwrite, argument=argument)
    return kind


def _beside(target: Path) -> Path:
    """Return where the record of a file without room for it lies."""
    return target.with_name(target.name + ".json")


def write_psf(
    psf: ArrayLike,
    path: str | os.PathLike[str],
    *,
    pixel_size_um: tuple[float, float] | None = None,
    z_step_um: float | None = None,
    record: Record | dict[str, Any] | None = None,
    overwrite: bool = False,
    argument: str = "output",
) -> Path:
    """Write a PSF as an image (``.tif``, ``.npy``, …) that `read_psf` reads back unchanged.

    Parameters
    ----------
    psf : array_like, shape ([z,] y, x)
    path : path-like
    pixel_size_um : tuple of float, optional
        Pixel size along y and x.
    z_step_um : float, optional
        Distance of planes, for a PSF in 3D.
    record : Record or dict, optional
    overwrite : bool
    argument : str
        Name used in errors.

    Raises
    ------
    OutputError, InvalidInputError
        As `write_image`.
    """
    data = as_float32(psf, "psf")
    step = z_step_um if data.ndim == 3 else None
    image = Image(data, pixel_size_um=pixel_size_um, z_step_um=step, name="PSF")
    return write_image(image, path, record, overwrite, argument)


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


def _write_ome_tiff(image: Image, path: Path, record: dict[str, Any] | None, dtype: Dtype) -> None:
    from napari_deblur.io.tiff import write_tiff

    write_tiff(image, path, record, dtype=dtype)


def _write_imagej(image: Image, path: Path, record: dict[str, Any] | None, dtype: Dtype) -> None:
    from napari_deblur.io.tiff import write_imagej

    write_imagej(image, path, record, dtype=dtype)


def _write_zarr_04(image: Image, path: Path, record: dict[str, Any] | None, dtype: Dtype) -> None:
    from napari_deblur.io.zarr_writer import write_zarr

    write_zarr(image, path, record, "0.4", dtype=dtype)


def _write_zarr_05(image: Image, path: Path, record: dict[str, Any] | None, dtype: Dtype) -> None:
    from napari_deblur.io.zarr_writer import write_zarr

    write_zarr(image, path, record, "0.5", dtype=dtype)


def _write_array(image: Image, path: Path, _record: dict[str, Any] | None, dtype: Dtype) -> None:
    np.save(path, as_stored(image.data, dtype), allow_pickle=False)


def _write_picture(image: Image, path: Path, record: dict[str, Any] | None, _dtype: Dtype) -> None:
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


_WRITERS: dict[str, Callable[[Image, Path, dict[str, Any] | None, Dtype], None]] = {
    "ome-tiff": _write_ome_tiff,
    "imagej-tiff": _write_imagej,
    "ome-zarr-0.4": _write_zarr_04,
    "ome-zarr-0.5": _write_zarr_05,
    "npy": _write_array,
    "png": _write_picture,
}
