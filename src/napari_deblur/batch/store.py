"""The folder of a batch: results appear together with their record, or not at all, and can be verified."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_deblur.core.atomic import check_output, explained, move
from napari_deblur.core.errors import OutputError
from napari_deblur.core.lock import locked

RECORD_SUFFIX = "_record.json"
_LOCK, _COMMIT = ".napari-deblur.lock", "commit.json"
_STAGING, _STREAMING = ".staging", ".streaming"
_READ_BYTES = 2**20
_MARKS = (".zarray", ".zattrs", "zarr.json")

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

    def streaming(self, source: Path, about: Mapping[str, Any]) -> Path:
        """Return the folder in which a large result grows; one that was begun otherwise is emptied."""
        folder = self.folder / f".{stem(source)}{_STREAMING}"
        note, text = folder / "about.json", json.dumps(about, sort_keys=True)
        with explained(folder):
            if folder.is_dir() and not (note.is_file() and note.read_text(encoding="utf-8") == text):
                shutil.rmtree(folder)
            folder.mkdir(exist_ok=True)
            note.write_text(text, encoding="utf-8")
        return folder

    def find(self, source: Path, recipe: Mapping[str, Any]) -> Found:
        """Verify what is there of an input's results.

        Parameters
        ----------
        source : Path
            The input.
        recipe : dict
            The recipe that would be run on it.
        """
        path = self.record_path(source)
        if not path.exists():
            return Found("none")
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            outputs = dict(record["outputs"])
        except (OSError, ValueError, KeyError, TypeError):
            return Found("other", f"{path.name} is not a record with its results")
        if record.get("recipe") != json.loads(json.dumps(recipe)):
            return Found("other", "its results were made with another recipe")
        if record.get("input_state") != state_of(source):
            return Found("other", "it has changed since its results were made")
        for name, state in outputs.items():
            if state_of(self.folder / name, hashed=True) != state:
                return Found("other", f"{name} is not what its record says")
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
            with explained(last):
                outputs = {name: state_of(folder / name, hashed=True) for name in writers}
                content = {**record, "input_state": state_of(source), "outputs": outputs}
                text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
                (folder / last.name).write_text(text, encoding="utf-8")
                order = {"names": [*writers, last.name], "overwrite": overwrite}
                (folder / f"{_COMMIT}.new").write_text(json.dumps(order), encoding="utf-8")
                os.replace(folder / f"{_COMMIT}.new", folder / _COMMIT)
        except BaseException:
            if staging is None:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        self._complete(folder)
        shutil.rmtree(folder, ignore_errors=True)
        return [*(self.folder / name for name in writers), last]

    def _complete(self, folder: Path) -> None:
        """Rename what a folder lists to its place, the record last, passing over what was renamed before."""
        order = json.loads((folder / _COMMIT).read_text(encoding="utf-8"))
        for name in order["names"]:
            with explained(self.folder / name):
                _place(folder / name, self.folder / name, overwrite=bool(order["overwrite"]))


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


def state_of(path: Path, *, hashed: bool = False) -> dict[str, Any] | None:
    """Return what tells a file or folder from another: size, and time of change or sha256.

    Parameters
    ----------
    path : Path
    hashed : bool
        Whether to read all of it.

    Returns
    -------
    dict or None
        ``None`` if there is nothing.
    """
    if path.is_dir():
        if not hashed:  # the metadata stand for a store, whose chunks can be too many to look at
            marks = [mark for name in _MARKS for place in (name, f"*/{name}") for mark in path.glob(place)]
            return {"bytes": None, "changed_ns": max((m.stat().st_mtime_ns for m in marks), default=0)}
        files = sorted(entry for entry in path.rglob("*") if entry.is_file())
        whole = hashlib.sha256()
        for entry in files:
            whole.update(f"{entry.relative_to(path).as_posix()}\0{_sha256(entry)}\n".encode())
        return {"bytes": sum(entry.stat().st_size for entry in files), "sha256": whole.hexdigest()}
    try:
        found = path.stat()
        if hashed:
            return {"bytes": found.st_size, "sha256": _sha256(path)}
    except OSError:
        return None
    return {"bytes": found.st_size, "changed_ns": found.st_mtime_ns}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)
    return digest.hexdigest()


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
