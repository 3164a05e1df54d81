"""The folder in which a result grows until it is whole: what shall be done, and what is done."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from napari_deblur.core.atomic import atomic_path, explained
from napari_deblur.core.lock import locked

SUFFIX = ".part"
_JOB, _JOURNAL, _LOCK = "job.json", "journal.jsonl", "lock"


class Part:
    """The folder ``<output>.part``.

    It holds the growing image, the job (`save_job`) and a journal with one line for every piece of work that
    is done. A line is written once the work's result is in its place, so a process that is killed at any
    moment loses at most what it was computing.

    Parameters
    ----------
    output : Path
        The result's own path, which appears when everything is done.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output.with_name(output.name + SUFFIX)
        self.done: dict[str, dict[int, dict[str, Any]]] = {}

    @contextmanager
    def held(self, argument: str = "output") -> Iterator[None]:
        """Make the folder and keep other runs out of it.

        Raises
        ------
        OutputError
            If another run is at it, or it cannot be made.
        """
        with explained(self.output, argument):
            self.folder.mkdir(exist_ok=True)
        try:
            with locked(self.folder / _LOCK, self.output, argument):
                yield
        finally:
            with suppress(OSError):  # what was begun is kept: only an empty folder can be removed so
                self.folder.rmdir()

    def load_job(self) -> dict[str, Any] | None:
        """Return the job that was begun here, and remember what is done of it; ``None`` if there is none."""
        try:
            job = json.loads((self.folder / _JOB).read_text(encoding="utf-8"))
            lines = (self.folder / _JOURNAL).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return None
        for line in lines:
            try:
                stage, item, result = json.loads(line)
            except ValueError:  # cut off when the process was killed
                continue
            self.done.setdefault(stage, {})[int(item)] = result
        return job if isinstance(job, dict) else None

    def save_job(self, job: dict[str, Any]) -> None:
        """Write the job, whole or not at all."""
        with atomic_path(self.folder / _JOB, overwrite=True) as temporary:
            temporary.write_text(json.dumps(job), encoding="utf-8")

    def restart(self, job: dict[str, Any]) -> None:
        """Drop what was begun here, and begin this job."""
        for entry in self.folder.iterdir():
            if entry.name != _LOCK:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        self.done = {}
        (self.folder / _JOURNAL).touch()
        self.save_job(job)

    def mark(self, stage: str, item: int, result: dict[str, Any]) -> None:
        """Note that a piece of work is done, with what it found (JSON types)."""
        with explained(self.output), (self.folder / _JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps([stage, item, result]) + "\n")
            journal.flush()
            os.fsync(journal.fileno())
        self.done.setdefault(stage, {})[item] = result

    def finished(self, stage: str) -> dict[int, dict[str, Any]]:
        """Return what the finished pieces of a stage found."""
        return self.done.setdefault(stage, {})

    def remove(self) -> None:
        """Delete the folder but for its lock, which whoever holds it removes."""
        with suppress(OSError):
            for entry in list(self.folder.iterdir()):
                if entry.name != _LOCK:
                    shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()
