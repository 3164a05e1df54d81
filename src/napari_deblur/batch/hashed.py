"""What tells a file or a folder from another."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from napari_deblur.core.checksums import file_sha256

_MARKS = (".zarray", ".zattrs", "zarr.json")


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
            whole.update(f"{entry.relative_to(path).as_posix()}\0{file_sha256(entry)}\n".encode())
        return {"bytes": sum(entry.stat().st_size for entry in files), "sha256": whole.hexdigest()}
    try:
        found = path.stat()
        if hashed:
            return {"bytes": found.st_size, "sha256": file_sha256(path)}
    except OSError:
        return None
    return {"bytes": found.st_size, "changed_ns": found.st_mtime_ns}
