"""The commands recipe and compare."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_deblur.cli.options import Option, Values
from napari_deblur.cli.psf import PSF_OPTIONS, SLICES, psf_from
from napari_deblur.cli.session import (
    AXES,
    DEVICE,
    INPUT,
    JSON,
    OPTICS,
    OPTICS_OF_VOLUMES,
    OVERWRITE,
    PIXEL_SIZE,
    engine_for,
    read_input,
    report,
    session,
    shown,
    table,
)
from napari_deblur.core.errors import CancelledError, InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.methods.base import make_method
from napari_deblur.recipe import Recipe
from napari_deblur.steps.deblur import Deblur

if TYPE_CHECKING:
    from napari_deblur.steps.psf_source import PsfSource

FOLDER = Option("output", "Folder for the results; made if missing.", "DIR", short="-o", required=True)


def load_recipe(path: str) -> Recipe:
    """Read a recipe from YAML, from a batch's record, or from the record that a result carries.

    Raises
    ------
    InvalidInputError
        If there is none in the file.
    """
    from napari_deblur.io.read import existing, read_record

    source = existing(path, "recipe")
    if source.suffix.lower() in (".yaml", ".yml"):
        return Recipe.load(source)
    record = read_psf_map_record(source) if source.suffix.lower() == ".npz" else read_record(source)
    if record is None or not ("recipe" in record or "step" in record):
        rule = "must be a recipe (.yaml) or a result that carries its record"
        raise InvalidInputError("recipe", rule, repr(str(source)))
    if "recipe" in record:
        return Recipe.from_dict(record["recipe"], source.resolve().parent)
    return Recipe.from_records([record])


def read_psf_map_record(path: Path) -> dict[str, Any]:
    """Return the record that a PSF map carries."""
    from napari_deblur.optics.psf_map import PsfMap

    return PsfMap.load(path).record


def recipe_options() -> list[Option]:
    """Return the options of the command ``recipe``."""
    return [
        Option("results", "Results in the order in which they were made.", "RESULT...", "positions"),
        Option("output", "Recipe to write (.yaml).", "OUT", short="-o", required=True),
        OVERWRITE,
    ]


def recipe(values: Values) -> int | None:
    """Write the recipe that repeats what results record."""
    from napari_deblur.io.read import existing, read_record

    records = []
    for path in values["results"]:
        source = existing(path, "results")
        record = read_psf_map_record(source) if source.suffix.lower() == ".npz" else read_record(source)
        if record is None or "step" not in record:
            raise InvalidInputError("results", "must carry a record", repr(path))
        records.append(record)
    if not records:
        raise InvalidInputError("results", "must name at least one result", "none")
    written = Recipe.from_records(records).save(values["output"], overwrite=bool(values.get("overwrite")))
    print(f"recipe: {written}")
    return None


def compare_options() -> list[Option]:
    """Return the options of the command ``compare``."""
    return [
        INPUT,
        replace(FOLDER, help="Folder for the results and the table; made if missing."),
        Option(
            "methods",
            "Methods to compare, separated by commas; by default all quick ones that take the PSF.",
            "IDS",
        ),
        *PSF_OPTIONS,
        *OPTICS,
        *OPTICS_OF_VOLUMES,
        SLICES,
        AXES,
        PIXEL_SIZE,
        OVERWRITE,
        JSON,
        DEVICE,
    ]


def compare(values: Values) -> int | None:
    """Deblur one image with several methods and tabulate what came of it."""
    from napari_deblur.batch import make_folder, stem
    from napari_deblur.core.atomic import check_output
    from napari_deblur.io.write import write_image, write_json

    steps = _steps(values.get("methods"))
    overwrite = bool(values.get("overwrite"))
    image = read_input(values)
    flat = bool(values.get("slice_by_slice")) or not any(3 in step.method.ndim for step in steps.values())
    psf, optics, _ = psf_from(values, image, volumes=not flat)
    steps, left_out = _able(steps, psf, image, chosen="methods" in values)
    folder = make_folder(values["output"])
    name = stem(Path(values["image"]))
    paths = {id_: folder / f"{name}_{id_}.ome.tif" for id_ in steps}
    summary = folder / f"{name}_comparison.json"
    for path in (*paths.values(), summary):
        check_output(path, overwrite=overwrite)
    found: list[dict[str, Any]] = []
    notes = [f"{id_} works plane by plane and was left out." for id_ in left_out]
    with session("compare") as run:
        for index, (id_, step) in enumerate(steps.items()):
            part = run.part(index, index + 1, len(steps))
            part.notes, part.facts = [], {}
            result = step.run(image, psf, engine=engine_for(values), run=part, optics=optics)
            if result.partial:
                raise CancelledError("cancelled")
            write_image(result.image, paths[id_], result.record, overwrite)
            if psf is None and not step.method.blind and not isinstance(result.psf, list):
                psf = result.psf  # what was estimated for the first holds for all
            found.append(_row(id_, image, result, paths[id_]))
            notes += [f"{id_}: {note}" for note in result.record.notes]
    write_json({"input": values["image"], "methods": found}, summary, overwrite=overwrite)
    columns = list(found[0])
    rows = [columns, *([_cell(entry[column]) for column in columns] for entry in found)]
    report(values, {"methods": found, "output": str(folder)}, table(rows), notes)
    return None


def _steps(methods: str | None) -> dict[str, Deblur]:
    from napari_deblur.methods.base import registry

    quick = [id_ for id_, cls in registry().items() if cls.family != "zero-shot" and cls.space_varying]
    ids = [id_.strip() for id_ in methods.split(",")] if methods else quick
    return {id_: Deblur(method=make_method(id_)) for id_ in ids}


def _able(
    steps: dict[str, Deblur], psf: PsfSource, image: Image, *, chosen: bool
) -> tuple[dict[str, Deblur], list[str]]:
    """Return the methods that can use the PSF, and the ids of those that cannot if nobody chose them.

    Raises
    ------
    InvalidInputError
        If the PSF has a z axis and the image none, or a method that the user chose knows no volumes.
    """
    from napari_deblur.steps.psf_rules import restored_ndim

    deep = {id_: step for id_, step in steps.items() if 3 in step.method.ndim}
    flat = [id_ for id_ in steps if id_ not in deep]
    if not deep or not flat or restored_ndim(psf, image, next(iter(deep.values())).method) == 2:
        return steps, []
    if chosen:
        rule = f"must all work in 3D for a PSF with a z axis (or give optics and {shown('slice_by_slice')})"
        raise InvalidInputError("methods", rule, ", ".join(flat))
    return deep, flat


def _row(id_: str, image: Image, result: Any, path: Path) -> dict[str, Any]:
    facts = result.record.facts
    return {
        "method": id_,
        "restored_in": facts.get("restored_in"),
        "seconds": result.record.seconds,
        "flux_change": facts.get("flux_change"),
        "residual_rms": facts.get("reblur_residual_rms"),
        "resolution_before_px": _resolution(image),
        "resolution_after_px": _resolution(result.image),
        "file": str(path),
    }


def _resolution(image: Image) -> float | None:
    from napari_deblur.quality import frc_resolution_px

    middle = tuple(size // 2 for size in image.data.shape[:-2])
    try:
        found = frc_resolution_px(image.data[middle])
    except InvalidInputError:  # too small to tell
        return None
    return round(float(found), 2) if np.isfinite(found) else None


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
