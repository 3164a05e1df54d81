"""One run at a time on one output: a lock that ends with the process that holds it."""

from __future__ import annotations

import errno
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from napari_deblur.core.errors import OutputError

# What file systems without locks answer; there nothing can be held, and the run goes on without.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def locked(path: Path, output: Path, argument: str = "output") -> Iterator[None]:
    """Hold a lock while the block runs.

    The system itself gives the lock back when the process ends, however it ends, so that no stale lock has
    ever to be removed by hand. The file says who holds it, and is removed at the end.

    Parameters
    ----------
    path : Path
        File to lock; made if missing, in a folder that exists.
    output : Path
        What it protects, as the user named it.
    argument : str
        Name used in errors.

    Raises
    ------
    OutputError
        If another run holds it, or the file cannot be made.
    """
    handle = _acquire(path, output, argument)
    try:
        owner = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps(owner).encode())
        yield
    finally:
        # Removed while it is still held: whoever opened it before finds that it is no longer the file there.
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def _acquire(path: Path, output: Path, argument: str) -> int:
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"{argument} must be lockable; received {str(output)!r} ({reason})") from error
        try:
            _lock(handle)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return handle
            who = _owner(handle)
            os.close(handle)
            rule = f"{argument} must not be in use by another run{who}"
            raise OutputError(f"{rule}; received {str(output)!r}") from None
        if _is_still_there(handle, path):
            return handle
        os.close(handle)  # removed by the run before, between our opening and our locking


def _lock(handle: int) -> None:
    """Lock a file without waiting."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        return
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _owner(handle: int) -> str:
    try:
        owner = json.loads(os.read(handle, 1000))
        return f" (process {owner['process']} on {owner['host']} since {owner['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _is_still_there(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False
