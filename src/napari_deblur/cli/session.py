"""What the commands share: the run with its progress and cancel, inputs, outputs and reports."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from napari_deblur.cli.options import Option, Values, from_declaration
from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.record import Record
from napari_deblur.core.run import Progress, Run
from napari_deblur.optics.settings import VOLUME_FIELDS, Optics

if TYPE_CHECKING:
    from napari_deblur.engine.engine import Engine
    from napari_deblur.io.lazy import LazyImage

INPUT = Option("image", "Image: TIFF (OME, ImageJ, plain), PNG, JPEG, NPY or OME-Zarr.", "IN", "position")
OUTPUT = Option(
    "output",
    "File to write; .tif (OME-TIFF), .npy, .zarr or .png (for looking at only).",
    "OUT",
    short="-o",
    required=True,
)
OVERWRITE = Option("overwrite", "Replace outputs that exist.", kind="flag")
JSON = Option("json", "Report as JSON on standard output.", kind="flag")
DEVICE = Option("device", "Where to compute: auto, cuda, mps or cpu. [default auto]", "CHOICE")
AXES = Option(
    "axes", "Axes of the image, one letter each, where the file is silent or wrong; for example tyx."
)
PIXEL_SIZE = Option(
    "pixel_size_um", "Pixel size of the image in µm, where the file is silent or wrong.", "NUMBER"
)
OPTICS = from_declaration(Optics, skip=["pixel_size_um", *VOLUME_FIELDS])
OPTICS_OF_VOLUMES = [option for option in from_declaration(Optics) if option.name in VOLUME_FIELDS]
_SHOWN_EVERY_S = 0.1
# What a file may tell of the optics beside the sizes of pixels.
_FROM_FILE = ("na", "refractive_index", "wavelength_um")
AnyImage = TypeVar("AnyImage", "Image", "LazyImage")


@contextmanager
def session(label: str) -> Iterator[Run]:
    """Give a run that shows its progress on a terminal and that Ctrl-C cancels."""
    progress = _ProgressLine(label) if sys.stderr.isatty() else None
    run = Run(on_progress=progress)

    def cancel(_signum: int, _frame: Any) -> None:
        if run.cancelled:  # asked twice: do not wait for the next iteration
            raise KeyboardInterrupt
        run.cancel()

    # Only a process's main thread can handle signals; elsewhere whoever started us cancels.
    main = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGINT, signal.SIGTERM) if main else ()
    before = {number: signal.signal(number, cancel) for number in signals}
    try:
        yield run
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        if progress is not None:
            progress.clear()


class _ProgressLine:
    def __init__(self, label: str) -> None:
        self.label, self.last = label, 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self.last >= _SHOWN_EVERY_S:
            self.last = now
            sys.stderr.write(f"\r\x1b[K{self.label}: {progress.fraction:4.0%}  {progress.message[:60]}")
            sys.stderr.flush()

    def clear(self) -> None:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def engine_for(values: Values) -> Engine:
    """Return the engine on the device that the user chose."""
    from napari_deblur.engine.shared import get_engine, use_device

    return use_device(values["device"]) if "device" in values else get_engine()


def read_input(values: Values) -> Image:
    """Read the image that a command works on, sizes and axes as the user says."""
    from napari_deblur.io.read import read_image

    return with_sizes(values, read_image(values["image"], axes=values.get("axes")))


def with_sizes(values: Values, image: AnyImage) -> AnyImage:
    """Return an image, read or not, with the sizes of pixels and planes that the user gives."""
    size, step = number(values, "pixel_size_um"), number(values, "z_step_um")
    if size is not None:
        image = replace(image, pixel_size_um=(size, size))
    if step is not None and "z" not in image.axes:
        rule = f"must be left out for an image without a z axis (name its axes with {shown('axes')})"
        raise InvalidInputError("z_step_um", rule, f"axes {image.axes}")
    return image if step is None else replace(image, z_step_um=step)


def number(values: Values, name: str) -> float | None:
    """Return a value as a finite number, or None where the user gave none.

    Raises
    ------
    InvalidInputError
        If it is not a number.
    """
    if name not in values:
        return None
    try:
        found = float(values[name])
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise InvalidInputError(name, "must be a number", repr(values[name]))
    return found


def optics_from(values: Values, image: Image, *, volumes: bool = False) -> Optics | None:
    """Return the optics that the user describes; the sizes of pixels come from the image if not given.

    Parameters
    ----------
    values : dict
    image : Image
    volumes : bool
        Whether a stack whose distance of planes is known is described in 3D.
    """
    described = {option.name: values[option.name] for option in OPTICS if option.name in values}
    deep = {option.name: values[option.name] for option in OPTICS_OF_VOLUMES if option.name in values}
    deep.pop("z_step_um", None)  # it is the image's by now
    if described or values.get("optics_from_file"):
        from napari_deblur.io.microscope import suggest_optics

        known = suggest_optics(image, channel=0)
        described = {name: known[name] for name in _FROM_FILE if name in known} | described
    if not described:
        if deep:
            name = next(iter(deep))
            raise InvalidInputError(
                name, f"needs {shown('na')} and {shown('wavelength_um')}", repr(deep[name])
            )
        if values.get("optics_from_file"):
            rule = "needs a file that tells its objective or wavelength"
            raise InvalidInputError("optics_from_file", rule, f"{image.name}, which tells neither")
        return None
    if image.pixel_size_um is not None:
        y, x = image.pixel_size_um
        if abs(y - x) > 0.01 * max(y, x):
            raise InvalidInputError(
                "pixel_size_um", "must be the same along y and x for optics", f"{y:g} and {x:g}"
            )
        described["pixel_size_um"] = (y + x) / 2
    if volumes and image.has_volumes and image.z_step_um is not None:
        described |= {"z_step_um": image.z_step_um, **deep}
    elif deep:
        name = next(iter(deep))
        rule = f"must be left out where planes are restored one by one (for 3D give {shown('z_step_um')})"
        raise InvalidInputError(name, rule, repr(deep[name]))
    return Optics(**described)


def check_outputs(values: Values, *names: str, image: str | None = None) -> dict[str, Path]:
    """Check, before the work, that all outputs which the user names can be written.

    Parameters
    ----------
    values : dict
    *names : str
        Options that name outputs.
    image : str, optional
        The input, which must not be an output.
    """
    from napari_deblur.core.atomic import check_output

    found: dict[str, Path] = {}
    for name in names:
        if name not in values:
            continue
        path = check_output(values[name], overwrite=values.get("overwrite", False), argument=shown(name))
        if image is not None and path.resolve() == Path(image).expanduser().resolve():
            raise InvalidInputError(name, "must not be the input", repr(str(path)))
        if path.resolve() in {other.resolve() for other in found.values()}:
            raise InvalidInputError(name, "must differ from the other outputs", repr(str(path)))
        found[name] = path
    return found


def shown(name: str) -> str:
    """Return an option as a user writes it."""
    return "--" + name.replace("_", "-")


def report(values: Values, result: dict[str, Any], lines: list[str], notes: list[str] | None = None) -> None:
    """Print what a command did: JSON if asked for, else lines of text."""
    if values.get("json"):
        notes_part = {"notes": notes} if notes else {}
        print(json.dumps({**result, **notes_part}, indent=2, ensure_ascii=False, default=str))
        return
    for line in lines:
        print(line)
    for note in notes or []:
        print(f"note: {note}")


def table(rows: list[list[str]]) -> list[str]:
    """Return rows as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def report_step(
    values: Values,
    outputs: dict[str, Path],
    record: Record | dict[str, Any],
    lines: list[str] | None = None,
    plan: dict[str, Any] | None = None,
) -> None:
    """Print what a step wrote and how long it took, with its notes; the plan is part of the JSON."""
    plain = record.to_dict() if isinstance(record, Record) else record
    result = {"outputs": {name: str(path) for name, path in outputs.items()}, "record": plain}
    if plan is not None:
        result["plan"] = plan
    where = f"{plain['seconds']:.2f} s on {plain['device']}"
    written = [f"{name.replace('_', ' ')}: {path}" for name, path in outputs.items()]
    report(values, result, [*written, *(lines or []), where], list(plain["notes"]))


def check_suffix(name: str, path: Path, *suffixes: str) -> None:
    """Refuse a path that does not end in one of the suffixes."""
    if path.suffix.lower() not in suffixes:
        raise InvalidInputError(name, f"must end in {' or '.join(suffixes)}", repr(str(path)))
