"""The commands recipe and compare."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

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
    table,
)
from napari_deblur.cli.steps import BACKGROUND, background_of, with_background
from napari_deblur.core.errors import CancelledError, InvalidInputError, NapariDeblurError
from napari_deblur.core.image import as_image
from napari_deblur.recipe import Recipe

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
        BACKGROUND,
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
    from napari_deblur.comparison import able, quick_methods, steps_of
    from napari_deblur.comparison import compare as compare_methods
    from napari_deblur.core.atomic import check_output
    from napari_deblur.io.write import write_image, write_json

    named = values.get("methods")
    steps = steps_of(quick_methods() if named is None else [id_.strip() for id_ in named.split(",")])
    overwrite = bool(values.get("overwrite"))
    background, image = background_of(values), read_input(values)
    flat = bool(values.get("slice_by_slice")) or not any(3 in step.method.ndim for step in steps.values())
    psf, optics, _ = psf_from(values, image, volumes=not flat)
    steps, left_out = able(steps, psf, image, chosen=named is not None)
    image = as_image(image)  # before the folder is made
    folder = make_folder(values["output"])
    name = stem(Path(values["image"]))
    paths = {id_: folder / f"{name}_{id_}.ome.tif" for id_ in steps}
    summary = folder / f"{name}_comparison.json"
    for path in (*paths.values(), summary):
        check_output(path, overwrite=overwrite)
    found: list[dict[str, Any]] = []
    notes = [f"{id_} works plane by plane and was left out." for id_ in left_out]

    def refused(label: str, error: NapariDeblurError) -> None:
        notes.append(f"{label}: {error}")

    with session("compare") as run, _told_what_is_written(found, len(steps), folder):
        more: dict[str, Any] = {"optics": optics, "background": background, "on_refusal": refused}
        for one in compare_methods(steps, image, psf, engine=engine_for(values), run=run, **more):
            if one.result.partial:
                raise CancelledError("cancelled")
            path, record = paths[one.method], with_background(one.result.record, values)
            write_image(one.result.image, path, record, overwrite)
            found.append({**one.row(), "file": str(path)})
            notes += [f"{one.method}: {note}" for note in record.notes]
    write_json({"input": values["image"], "methods": found}, summary, overwrite=overwrite)
    columns = list(found[0])
    rows = [columns, *([_cell(entry[column]) for column in columns] for entry in found)]
    report(values, {"methods": found, "output": str(folder)}, table(rows), notes)
    return None


@contextmanager
def _told_what_is_written(found: list[dict[str, Any]], count: int, folder: Path) -> Iterator[None]:
    """Have a cancel say which results lie there already."""
    try:
        yield
    except CancelledError as error:
        if found:
            error.hint = f"{len(found)} of {count} methods are written in {folder}"
        raise


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
