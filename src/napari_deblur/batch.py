"""A recipe over many files: results and records side by side, failures listed, what is done skipped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_deblur.core.errors import CancelledError, InvalidInputError, NapariDeblurError, OutputError
from napari_deblur.core.run import Run
from napari_deblur.recipe import Recipe

if TYPE_CHECKING:
    from napari_deblur.core.image import Image
    from napari_deblur.core.record import Record
    from napari_deblur.recipe_run import RecipeResult

RECORD_SUFFIX = "_record.json"


@dataclass(frozen=True)
class FileOutcome:
    """What became of one input.

    Attributes
    ----------
    path : Path
    state : {"done", "skipped", "failed"}
    reason : str
        Why it failed or was skipped.
    outputs : tuple of Path
    """

    path: Path
    state: Literal["done", "skipped", "failed"]
    reason: str = ""
    outputs: tuple[Path, ...] = ()


def run_files(
    recipe: Recipe,
    inputs: Sequence[str | os.PathLike[str]],
    out_dir: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    run: Run | None = None,
    client: Any = None,
) -> list[FileOutcome]:
    """Run a recipe over files, going on after failures.

    Parameters
    ----------
    recipe : Recipe
    inputs : sequence of path-like
        Image files; results are named after them, so their names must differ.
    out_dir : path-like
        Made if missing. A file whose record lies there already counts as done.
    overwrite : bool
        Whether to do again what is done.
    run : Run, optional
        Progress and cancel.
    client : dask.distributed.Client, optional
        Runs the files on its workers, which must see the same folders.

    Returns
    -------
    list of FileOutcome
        In the order of the inputs.

    Raises
    ------
    InvalidInputError
        If there are no inputs, or two of the same name.
    OutputError
        If the folder cannot be made.
    CancelledError
        If cancelled; finished files stay.
    """
    run = run or Run()
    paths = [Path(path).expanduser() for path in inputs]
    _check_names(paths)
    folder = make_folder(out_dir)
    outcomes = _on_workers if client is not None else _here
    return list(outcomes(recipe, paths, folder, overwrite, run, client))


def _here(
    recipe: Recipe, paths: list[Path], folder: Path, overwrite: bool, run: Run, _client: Any
) -> Iterator[FileOutcome]:
    for index, path in enumerate(paths):
        part = run.part(index, index + 1, len(paths))
        part.step(0, 1, path.name)
        yield one_file(recipe, path, folder, overwrite=overwrite, run=part)


def _on_workers(
    recipe: Recipe, paths: list[Path], folder: Path, overwrite: bool, run: Run, client: Any
) -> Iterator[FileOutcome]:
    """Submit all files, and collect them in order; a cancel takes back what has not started."""
    futures = [
        client.submit(one_file, recipe, path.resolve(), folder.resolve(), overwrite=overwrite, pure=False)
        for path in paths
    ]
    try:
        for index, (path, future) in enumerate(zip(paths, futures, strict=True)):
            while not future.done():
                run.step(index, len(paths), path.name)
                _wait(future)
            yield future.result()
    finally:
        client.cancel([future for future in futures if not future.done()])


def _wait(future: Any) -> None:
    from concurrent.futures import TimeoutError as NotYetError

    try:
        future.result(timeout=0.2)
    except (TimeoutError, NotYetError):
        return


def one_file(
    recipe: Recipe, path: Path, folder: Path, *, overwrite: bool = False, run: Run | None = None
) -> FileOutcome:
    """Run a recipe on one file and write its results; the record last, as the mark that all is there."""
    from napari_deblur.engine.engine import get_engine
    from napari_deblur.io.read import read_image

    run = run or Run()
    if (folder / f"{stem(path)}{RECORD_SUFFIX}").exists() and not overwrite:
        return FileOutcome(path, "skipped", "its record is in the output folder already")
    try:
        image = read_image(path)
        result = recipe.run(image, engine=get_engine(), run=run)
        if result.partial:
            raise CancelledError(f"cancelled during {path.name}")
        outputs = write_results(result, recipe, image, folder, overwrite=overwrite)
    except CancelledError:
        raise
    except (NapariDeblurError, OSError, MemoryError) as error:
        return FileOutcome(path, "failed", " ".join(str(error).split()) or type(error).__name__)
    return FileOutcome(path, "done", outputs=tuple(outputs))


def write_results(
    result: RecipeResult, recipe: Recipe, image: Image, folder: Path, *, overwrite: bool = False
) -> list[Path]:
    """Write everything that a recipe gave, named after the input: all of it, or nothing.

    Raises
    ------
    OutputError
        If a file exists and may not be replaced, or cannot be written.
    """
    from napari_deblur.core.atomic import check_output

    source = Path(str(image.source.get("path", image.name)))
    record = {"input": str(source), "recipe": recipe.to_dict(), "records": result.records}
    plan = {
        folder / f"{stem(source)}{suffix}": writer
        for suffix, writer in _writers(result, record, overwrite).items()
    }
    new = [path for path in plan if not path.exists()]
    for path in plan:
        check_output(path, overwrite=overwrite)
    try:
        for path, writer in plan.items():
            writer(path)
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
        raise
    return list(plan)


def _writers(
    result: RecipeResult, record: dict[str, Any], overwrite: bool
) -> dict[str, Callable[[Path], Any]]:
    """Return what writes each part of a result, by the end of its name; the record last."""
    from napari_deblur.io.mesh import write_mesh
    from napari_deblur.io.write import write_depth, write_image, write_json

    found: dict[str, Callable[[Path], Any]] = {}

    def image(suffix: str, part: Image, of: Record) -> None:
        found[f"_{suffix}.ome.tif"] = lambda path: write_image(part, path, of, overwrite)

    if (split := result.background) is not None:
        image("foreground", split.image, split.record)
        image("background", split.background, split.record)
    maps = result.psf_map if isinstance(result.psf_map, list) else [result.psf_map] if result.psf_map else []
    for number, one in enumerate(maps):
        index = f"_{number:04d}" if len(maps) > 1 else ""
        found[f"_psf-map{index}.npz"] = partial(one.save, overwrite=overwrite)
    if (sharp := result.deblur) is not None:
        image("deblurred", sharp.image, sharp.record)
    if (depth := result.depth) is not None:
        found["_depth.ome.tif"] = lambda path: write_depth(depth, path, overwrite=overwrite)
        found["_depth-confidence.ome.tif"] = lambda path: write_depth(
            depth, path, confidence=True, overwrite=overwrite
        )
        if depth.calibrated and depth.pixel_size_um is not None:
            found["_surface.ply"] = lambda path: write_mesh(depth.surface(), path, overwrite)
    found[RECORD_SUFFIX] = lambda path: write_json(record, path, overwrite=overwrite)
    return found


def stem(path: Path) -> str:
    """Return the name that results of a file are given."""
    return path.name.removesuffix(path.suffix).removesuffix(".ome")


def _check_names(paths: Iterable[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in paths:
        if (other := seen.setdefault(stem(path), path)) is not path:
            raise InvalidInputError(
                "inputs", "must differ in their names", f"{str(other)!r} and {str(path)!r}"
            )
    if not seen:
        raise InvalidInputError("inputs", "must name at least one file", "none")


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder for results, if it is missing.

    Raises
    ------
    OutputError
        If it cannot be made or written to.
    """
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(
            f"output must be a folder that can be made; received {str(folder)!r} ({reason})"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"output must be a folder that can be written to; received {str(folder)!r}")
    return folder
