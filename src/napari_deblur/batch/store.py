"""The folder of a batch: results appear together with their record, or not at all, and can be verified."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_deblur.batch.hashed import state_of
from napari_deblur.batch.made import Made, is_complete
from napari_deblur.core.atomic import check_output, explained, move
from napari_deblur.core.errors import OutputError
from napari_deblur.core.lock import locked

RECORD_SUFFIX = "_record.json"
_LOCK, _COMMIT = ".napari-deblur.lock", "commit.json"
_STAGING, _STREAMING, _ABOUT = ".staging", ".streaming", "about.json"

Writer = Callable[[Path], Any]


@dataclass(frozen=True)
class Found:
    """What a folder holds of an input's results.

    Attributes
    ----------
    state : {"none", "done", "other"}
        Nothing; all of it, as the record says; or something that a run must not replace unasked.
    reason : str
    """

    state: str
    reason: str = ""


class Store:
    """A folder of results.

    An input's results are first written to a folder of their own inside, together with a list of their sizes
    and sha256; then they are renamed, the record last. A run that is killed in between is completed by the
    next one from that list, so that a result is never there in part.

    Parameters
    ----------
    folder : Path
    token : str
        Tells this run's unfinished folders from those that others left.
    """

    def __init__(self, folder: Path, token: str) -> None:
        self.folder, self.token = folder, token

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs out of the folder, and complete or remove what they left unfinished.

        Raises
        ------
        OutputError
            If another run is at it.
        """
        with locked(self.folder / _LOCK, self.folder):
            for left in self.folder.glob(f".*{_STAGING}"):
                with suppress(OutputError, ValueError):  # what cannot be completed is computed again
                    if (left / _COMMIT).is_file():
                        self._complete(left)
                shutil.rmtree(left, ignore_errors=True)
            yield

    def record_path(self, source: Path) -> Path:
        """Return where the record of an input lies."""
        return self.folder / f"{stem(source)}{RECORD_SUFFIX}"

    def streaming(self, source: Path, made: Made, *, overwrite: bool) -> Path:
        """Return the folder in which a large result grows.

        Parameters
        ----------
        source : Path
            The input.
        made : Made
            What the result is made with.
        overwrite : bool
            Whether one that was begun otherwise may be discarded.

        Raises
        ------
        OutputError
            If there is one and it may not, or the folder cannot be made.
        """
        folder = self.folder / f".{stem(source)}{_STREAMING}"
        about = {**made.record(), "input": str(source), "state": state_of(source)}
        with explained(folder):
            if folder.is_dir() and (otherwise := _begun_otherwise(folder / _ABOUT, about, made)):
                if not overwrite and _holds_results(folder):
                    rule = "must not discard what was begun with other settings (allow it with overwrite)"
                    raise OutputError(f"output {rule}; received {str(folder)!r}, which was {otherwise}")
                shutil.rmtree(folder)
            folder.mkdir(exist_ok=True)
            (folder / _ABOUT).write_text(json.dumps(about, sort_keys=True), encoding="utf-8")
        return folder

    def find(self, source: Path, made: Made) -> Found:
        """Verify what is there of an input's results.

        Parameters
        ----------
        source : Path
            The input.
        made : Made
            What they would be made with.
        """
        path = self.record_path(source)
        if not path.exists():
            return Found("none")
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            outputs = dict(record["outputs"])
        except (OSError, ValueError, KeyError, TypeError):
            return Found("other", f"{path.name} is not a record with its results")
        if otherwise := made.differs(record):
            return Found("other", f"its results were {otherwise}")
        if record.get("input_state") != state_of(source):
            return Found("other", "it has changed since its results were made")
        for name, state in outputs.items():
            if state_of(self.folder / name, hashed=True) != state:
                return Found("other", f"{name} is not what its record says")
        if not is_complete(record):
            unknown = "PSF file, format and numbers are not in its record, which an earlier version wrote"
            return Found("done", f"done before, its results verified ({unknown})")
        return Found("done", "done before, its results verified")

    def commit(
        self,
        source: Path,
        writers: Mapping[str, Writer],
        record: Mapping[str, Any],
        *,
        overwrite: bool,
        staging: Path | None = None,
    ) -> list[Path]:
        """Write results and their record: all of them, or nothing.

        Parameters
        ----------
        source : Path
            The input.
        writers : dict of callable
            What writes each result to a path, by its name; with ``staging`` those that lie there already are
            not written.
        record : dict
            What the record holds beside the list of results.
        overwrite : bool
            Whether what exists may be replaced.
        staging : Path, optional
            Folder inside this one, where some results lie already.

        Raises
        ------
        OutputError
            If a file exists and may not be replaced, or cannot be written.
        """
        last = self.record_path(source)
        for path in (*(self.folder / name for name in writers), last):
            check_output(path, overwrite=overwrite)
        folder = staging or self.folder / f".{stem(source)}.{self.token}{_STAGING}"
        try:
            with explained(last):
                folder.mkdir(exist_ok=True)
            for name, writer in writers.items():
                if not (folder / name).exists():
                    writer(folder / name)
            names = [*writers, *(f"{name}.json" for name in writers if (folder / f"{name}.json").is_file())]
            for name in names[len(writers) :]:  # records that formats without room for one have beside them
                check_output(self.folder / name, overwrite=overwrite)
            with explained(last):
                outputs = {name: state_of(folder / name, hashed=True) for name in names}
                content = {**record, "input_state": state_of(source), "outputs": outputs}
                text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
                (folder / last.name).write_text(text, encoding="utf-8")
                order = {"names": [*names, last.name], "overwrite": overwrite}
                (folder / f"{_COMMIT}.new").write_text(json.dumps(order), encoding="utf-8")
                os.replace(folder / f"{_COMMIT}.new", folder / _COMMIT)
        except BaseException:
            if staging is None:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        self._complete(folder)
        shutil.rmtree(folder, ignore_errors=True)
        return [*(self.folder / name for name in names), last]

    def _complete(self, folder: Path) -> None:
        """Rename what a folder lists to its place, the record last, passing over what was renamed before."""
        order = json.loads((folder / _COMMIT).read_text(encoding="utf-8"))
        for name in order["names"]:
            with explained(self.folder / name):
                _place(folder / name, self.folder / name, overwrite=bool(order["overwrite"]))


def _begun_otherwise(note: Path, about: Mapping[str, Any], made: Made) -> str:
    """Return how a large result was begun otherwise, in words; empty if it was begun so."""
    try:
        before = dict(json.loads(note.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return "begun with what is not known"
    if "output" not in before:  # of an earlier version
        output = {"format": before.get("format"), "dtype": before.get("dtype", "float32")}
        before |= {"output": output, "files": made.files}
    if otherwise := made.differs(before):
        return otherwise
    same = all(before.get(name) == json.loads(json.dumps(about[name])) for name in ("input", "state"))
    return "" if same else "begun with another input, or before that was changed"


def _holds_results(folder: Path) -> bool:
    return any(entry.name != _ABOUT for entry in folder.iterdir())


def _place(source: Path, target: Path, *, overwrite: bool) -> None:
    """Rename a result, or see that this was done."""
    if target.exists() and (not source.exists() or source.samefile(target)):
        source.unlink(missing_ok=True)
        return
    try:
        move(source, target, overwrite=overwrite)
        source.unlink(missing_ok=True)
    except FileNotFoundError:
        if not target.exists():
            raise


def stem(path: Path) -> str:
    """Return the name that results of a file are given."""
    return path.name.removesuffix(path.suffix).removesuffix(".ome")


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
