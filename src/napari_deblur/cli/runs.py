"""The command for many files: run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from napari_deblur.cli import stream
from napari_deblur.cli.batch import FOLDER, load_recipe
from napari_deblur.cli.options import Option, Values
from napari_deblur.cli.session import DEVICE, JSON, OVERWRITE, engine_for, report, session, table
from napari_deblur.core.errors import InvalidInputError

if TYPE_CHECKING:
    from napari_deblur.batch import FileOutcome
    from napari_deblur.stream.executors import Executor

RECIPE = Option("recipe", "Recipe (.yaml), or a result whose record is to be repeated.", "RECIPE", "position")


def run_options() -> list[Option]:
    """Return the options of the command ``run``."""
    return [
        RECIPE,
        Option("inputs", "Images.", "IN...", "positions"),
        FOLDER,
        replace(OVERWRITE, help="Do again what is done already."),
        Option("scheduler", "Work on the dask cluster of this scheduler (extra 'batch').", "ADDRESS"),
        Option("workers", "Work in so many processes of this machine (extra 'batch').", "INT"),
        *stream.OPTIONS,
        JSON,
        DEVICE,
    ]


def run(values: Values) -> int | None:
    """Run a recipe over files."""
    from napari_deblur.batch import BatchSettings, run_files

    recipe = load_recipe(values["recipe"])
    settings = BatchSettings(
        overwrite=bool(values.get("overwrite")),
        stream=bool(values.get("stream")),
        streaming=stream.streaming(values),
        output=stream.written(values),
    )
    with _executor(values) as executor, session("run") as job:
        outcomes = run_files(
            recipe,
            values["inputs"],
            values["output"],
            settings=settings,
            executor=executor,
            run=job,
            on_plan=lambda path, plan: stream.say_plan(values, path, plan),
        )
    return _report(values, outcomes, list(job.notes))


@contextmanager
def _executor(values: Values) -> Iterator[Executor]:
    """Give the place where the work is done."""
    from napari_deblur.stream.cluster import on_scheduler, on_workers
    from napari_deblur.stream.executors import Here

    if "scheduler" in values and "workers" in values:
        raise InvalidInputError("workers", "must not be combined with --scheduler", repr(values["workers"]))
    if "scheduler" in values:
        if "device" in values:
            rule = "must be left out with --scheduler: set NAPARI_DEBLUR_DEVICE where the workers start"
            raise InvalidInputError("device", rule, repr(values["device"]))
        with on_scheduler(values["scheduler"]) as executor:
            yield executor
    elif "workers" in values:
        if not str(values["workers"]).isdecimal():
            raise InvalidInputError("workers", "must be a whole number", repr(values["workers"]))
        with on_workers(int(values["workers"]), values.get("device", "auto")) as executor:
            yield executor
    else:
        engine_for(values)
        yield Here()


def _report(values: Values, outcomes: list[FileOutcome], notes: list[str]) -> int | None:
    """List what became of the files, failures last, and fail if any did."""
    failed = [one for one in outcomes if one.state == "failed"]
    listed = [one for one in outcomes if one.state != "failed"] + failed
    result = {
        "files": [
            {
                "input": str(one.path),
                "state": one.state,
                "reason": one.reason,
                "outputs": [str(path) for path in one.outputs],
            }
            for one in outcomes
        ]
    }
    report(values, result, table([[one.state, str(one.path), one.reason] for one in listed]), notes)
    if failed:
        raise InvalidInputError(
            "inputs",
            "must all be processed",
            f"{len(failed)} of {len(outcomes)} failed, first {failed[0].path.name}: {failed[0].reason}",
        )
    return None
