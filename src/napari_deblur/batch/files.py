"""Run a recipe over files, each as a whole or block by block, in this process or on a cluster."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from napari_deblur.batch.made import Made
from napari_deblur.batch.outcome import BatchSettings, FileOutcome, failed
from napari_deblur.batch.store import Store, make_folder, stem
from napari_deblur.batch.whole import engine_of, one_file
from napari_deblur.core.errors import CancelledError, InvalidInputError, NapariDeblurError
from napari_deblur.core.run import Run
from napari_deblur.io.formats import BLOCKWISE
from napari_deblur.recipe import Recipe
from napari_deblur.steps.deblur import Deblur
from napari_deblur.stream.executors import Executor, Here
from napari_deblur.stream.plan import StreamPlan, budget_bytes, must_stream, needed_bytes


def run_files(
    recipe: Recipe,
    inputs: Sequence[str | os.PathLike[str]],
    out_dir: str | os.PathLike[str],
    *,
    settings: BatchSettings | None = None,
    executor: Executor | None = None,
    run: Run | None = None,
    on_plan: Callable[[Path, StreamPlan], None] | None = None,
) -> list[FileOutcome]:
    """Run a recipe over files, going on after failures.

    Parameters
    ----------
    recipe : Recipe
    inputs : sequence of path-like
        Image files; results are named after them, so their names must differ.
    out_dir : path-like
        Made if missing. A file whose results lie there as its record says counts as done.
    settings : BatchSettings, optional
    executor : Executor, optional
        Where files, and the blocks of large ones, are worked on; in this process by default. Workers must see
        the same folders.
    run : Run, optional
        Progress and cancel.
    on_plan : callable, optional
        Told of every file that is worked on block by block, before it starts.

    Returns
    -------
    list of FileOutcome
        In the order of the inputs.

    Raises
    ------
    InvalidInputError
        If there are no inputs, or two of the same name.
    OutputError
        If the folder cannot be made, or another run is at it.
    CancelledError
        If cancelled; finished files stay, and so do finished blocks of a file that was not.
    """
    paths = [Path(path).expanduser().absolute() for path in inputs]
    _check_names(paths)
    settings = settings or BatchSettings()
    _ = settings.suffix  # refuses an unknown format before anything is made
    folder = make_folder(out_dir).absolute()
    store = Store(folder, uuid.uuid4().hex[:8])
    run = run or Run()
    for note in executor.notes if executor else ():
        run.note(note)
    with store.held():
        return _Batch(recipe, paths, store, settings, executor or Here(), run, on_plan).all()


class _Batch:
    def __init__(
        self,
        recipe: Recipe,
        paths: list[Path],
        store: Store,
        settings: BatchSettings,
        executor: Executor,
        run: Run,
        on_plan: Callable[[Path, StreamPlan], None] | None,
    ) -> None:
        # Workers may be in another folder, and so may be whoever runs the recipe of a record again.
        self.recipe, self.made = recipe.anchored(), Made.of(recipe, settings)
        self.paths, self.store, self.settings = paths, store, settings
        self.executor, self.run, self.on_plan = executor, run, on_plan
        self.outcomes: dict[Path, FileOutcome] = {}

    def all(self) -> list[FileOutcome]:
        try:
            return self._all()
        except CancelledError as error:
            done = sum(one.state != "failed" for one in self.outcomes.values())
            if done:
                kept = f"{error.hint}; " if error.hint else ""
                told = f"{done} of {len(self.paths)} files are done in {self.store.folder}"
                error.hint = f"{kept}{told}: the same command goes on"
            raise

    def _all(self) -> list[FileOutcome]:
        whole, large = self._sorted()
        budget = budget_bytes(self.settings.streaming, self.executor)
        limit = (
            None if isinstance(self.executor, Here) and not self.settings.streaming.memory_gb else int(budget)
        )
        pieces = [(self.recipe, self.made, path, self.store, self.settings, limit) for path in whole]
        part = self.run.part(0, len(whole), len(whole) + len(large))
        for _, outcome in self.executor.each(one_file, pieces, part, "file"):
            self.outcomes[outcome.path] = outcome
        for index, path in enumerate(large, start=len(whole)):
            part = self.run.part(index, index + 1, len(whole) + len(large))
            self.outcomes[path] = self._stream(path, part)
        return [self.outcomes[path] for path in self.paths]

    def _sorted(self) -> tuple[list[Path], list[Path]]:
        """Settle what is done or cannot be; return the files that fit into memory and those that do not."""
        whole: list[Path] = []
        large: list[Path] = []
        for path in self.paths:
            self.run.step(0, 1, f"looking at {path.name}")
            found = self.store.find(path, self.made)
            if self.settings.overwrite or found.state == "none":
                (large if self._must_stream(path) else whole).append(path)
            else:
                state: Literal["skipped", "failed"] = "skipped" if found.state == "done" else "failed"
                hint = "" if state == "skipped" else " (allow it with overwrite)"
                self.outcomes[path] = FileOutcome(path, state, found.reason + hint)
        return whole, large

    def _must_stream(self, path: Path) -> bool:
        """Return whether a file is worked on block by block; one that cannot be opened is not."""
        from napari_deblur.io.lazy import open_image

        try:
            image = open_image(path)
        except InvalidInputError:  # reading it will say why
            return False
        if self.settings.stream:
            return True
        if self._is_deblur_only:
            return must_stream(image, self.settings.streaming, self.executor)
        # What only works on whole images is tried while there is a chance that they fit.
        return needed_bytes(image) > budget_bytes(self.settings.streaming, self.executor)

    @property
    def _is_deblur_only(self) -> bool:
        return len(self.recipe.steps) == 1 and isinstance(self.recipe.steps[0], Deblur)

    def _stream(self, path: Path, run: Run) -> FileOutcome:
        try:
            return FileOutcome(path, "done", outputs=tuple(self._streamed(path, run)))
        except CancelledError:
            raise
        except (NapariDeblurError, OSError, MemoryError) as error:
            return failed(path, error)

    def _streamed(self, path: Path, run: Run) -> list[Path]:
        """Deblur a file block by block, in a folder where a run that is stopped can go on."""
        from napari_deblur.core.atomic import check_output
        from napari_deblur.io.lazy import open_image
        from napari_deblur.io.read import read_record
        from napari_deblur.recipe_run import RecipeRun
        from napari_deblur.stream.run import deblur_file

        step = self._only_step(path)
        name = f"{stem(path)}_deblurred{self.settings.suffix}"
        kind = self.settings.output.format or "ome-tiff"
        if kind not in BLOCKWISE:
            rule = f"must be one of {', '.join(BLOCKWISE)} for an image that is larger than memory"
            raise InvalidInputError("format", rule, repr(kind))
        for target in (self.store.folder / name, self.store.record_path(path)):
            check_output(target, overwrite=self.settings.overwrite)
        folder = self.store.streaming(path, self.made, overwrite=self.settings.overwrite)
        if not (folder / name).exists():
            image = open_image(path)
            psf, psf_path = RecipeRun(self.recipe, image.stub(), engine_of(None), run).psf()
            deblur_file(
                step,
                image,
                folder / name,
                psf,
                optics=self.recipe.optics,
                format=kind,
                dtype=self.settings.output.dtype,
                overwrite=self.settings.overwrite,
                settings=self.settings.streaming,
                # Left out, this process is used as its device likes it.
                executor=None if isinstance(self.executor, Here) else self.executor,
                run=run,
                on_plan=partial(self.on_plan, path) if self.on_plan else None,
                psf_path=psf_path,
            )
        records = [read_record(folder / name)]
        record = {"input": str(path), **self.made.record(), "records": records}
        nothing: Callable[[Path], Any] = lambda _path: None  # noqa: E731 - it lies there already
        return self.store.commit(
            path, {name: nothing}, record, overwrite=self.settings.overwrite, staging=folder
        )

    def _only_step(self, path: Path) -> Deblur:
        steps = self.recipe.steps
        if len(steps) == 1 and isinstance(steps[0], Deblur):
            return steps[0]
        kinds = ", ".join(str(type(step).model_fields["kind"].default) for step in steps)
        rule = "must hold nothing but deblur for an image that is larger than memory"
        raise InvalidInputError("steps", rule, f"{kinds} for {path.name}")


def _check_names(paths: Iterable[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in paths:
        if (other := seen.setdefault(stem(path), path)) is not path:
            raise InvalidInputError(
                "inputs", "must differ in their names", f"{str(other)!r} and {str(path)!r}"
            )
    if not seen:
        raise InvalidInputError("inputs", "must name at least one file", "none")
