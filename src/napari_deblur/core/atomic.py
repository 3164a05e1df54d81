"""Files appear whole or not at all: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from napari_deblur.core.errors import OutputError

_REASONS = {
    errno.ENOSPC: "could not be written: the disk is full",
    errno.EDQUOT: "could not be written: the disk quota is used up",
    errno.EROFS: "could not be written: the file system is read-only",
    errno.EACCES: "could not be written: permission denied",
    errno.EPERM: "could not be written: permission denied",
    errno.ENAMETOOLONG: "could not be written: the name is too long",
    errno.EFBIG: "could not be written: the file would be too large for this disk",
    errno.EISDIR: "could not be written: a folder of that name is in the way",
    errno.ENOENT: "could not be written: the folder is gone, or takes no such file",
    errno.ENOTDIR: "could not be written: a file of that name is in the way",
    # numpy reports a short write, so a full disk, as an error without a number.
    0: "could not be written completely (is the disk full?)",
}


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False, argument: str = "output") -> Path:
    """Check, before any work is done, that a result could be written to a path.

    Parameters
    ----------
    path : path-like
        Where the result shall lie.
    overwrite : bool
        Whether a file that exists may be replaced.
    argument : str
        Name used in errors.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        If the folder is missing or cannot be written to, or if the path exists and may not be replaced.
    """
    target = Path(path).expanduser()
    folder = target.parent
    if not target.name:
        raise OutputError(f"{argument} must name a file; received {str(path)!r}")
    if not folder.is_dir():
        raise OutputError(f"{argument} must lie in a folder that exists; received {str(target)!r}")
    if target.exists() or target.is_symlink():
        if not overwrite:
            raise OutputError(
                f"{argument} must not exist yet (allow it with overwrite); received {str(target)!r}"
            )
        if target.is_dir() and target.suffix.lower() != ".zarr":
            raise OutputError(f"{argument} must be a file, not a folder; received {str(target)!r}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{argument} must lie in a folder that can be written to; received {str(target)!r}")
    return target


@contextmanager
def atomic_path(
    path: str | os.PathLike[str], overwrite: bool = False, argument: str = "output"
) -> Iterator[Path]:
    """Give a temporary path beside ``path``, and move it into place when the block ends well.

    The temporary path has the same suffix, lies in the same folder, and may become a file or a folder. When
    the block raises anything, it is removed and ``path`` stays as it was.

    Parameters
    ----------
    path : path-like
        Where the result shall lie.
    overwrite : bool
        Whether a file that exists may be replaced.
    argument : str
        Name used in errors.

    Yields
    ------
    Path
        Where to write to.

    Raises
    ------
    OutputError
        If the folder is missing or read-only, the file exists and may not be replaced, or the disk is full.
    """
    target = check_output(path, overwrite=overwrite, argument=argument)
    # Short, because together with a long name it must still fit the file system's limit.
    double = target.suffixes[-2:-1] == [".ome"]
    suffix = "".join(target.suffixes[-2:]) if double else target.suffix
    temporary = target.with_name(f".{uuid.uuid4().hex[:12]}{suffix}")
    try:
        yield temporary
        _flush(temporary)
        move(temporary, target, overwrite=overwrite, argument=argument)
    except OutputError:
        raise
    except OSError as error:
        _explain(error, target, temporary, argument)
    finally:
        _remove(temporary)


@contextmanager
def explained(target: Path, argument: str = "output") -> Iterator[None]:
    """Turn what the system says about writing to an output into one clear error.

    Parameters
    ----------
    target : Path
        The output, as the user named it.
    argument : str
        Name used in errors.

    Raises
    ------
    OutputError
        For any error of the system inside the block.
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = _REASONS.get(error.errno or 0) or f"could not be written: {error.strerror or error}"
        raise OutputError(f"{argument} {reason}; received {str(target)!r}") from error


def _explain(error: OSError, target: Path, temporary: Path, argument: str) -> NoReturn:
    """Turn the system's error about the output into ours; let one about another file pass."""
    reason = _REASONS.get(error.errno or 0)
    about_the_output = error.filename is None or str(error.filename).startswith(
        (str(temporary), str(target), str(target.parent))
    )
    if reason is None or not about_the_output:
        raise error
    raise OutputError(f"{argument} {reason}; received {str(target)!r}") from error


def move(temporary: Path, target: Path, *, overwrite: bool, argument: str = "output") -> None:
    """Rename a finished file or folder to its own name.

    Raises
    ------
    OutputError
        If something of that name exists and may not be replaced.
    OSError
        If the system refuses.
    """
    if not overwrite and not temporary.is_dir():
        # A link fails where the name was taken since the first check; a rename would silently replace.
        try:
            os.link(temporary, target)
        except FileExistsError:
            raise OutputError(
                f"{argument} must not exist yet (allow it with overwrite); received {str(target)!r}"
            ) from None
        except OSError:  # a file system without hard links
            os.replace(temporary, target)
    elif temporary.is_dir() and target.exists():
        # Folders cannot be replaced in one go: step the old one aside, and bring it back if that fails.
        aside = target.with_name(f".{uuid.uuid4().hex[:12]}.old")
        os.replace(target, aside)
        try:
            os.replace(temporary, target)
        except OSError:
            os.replace(aside, target)
            raise
        _remove(aside)
    else:
        os.replace(temporary, target)
    _flush(target.parent)


def _flush(path: Path) -> None:
    """Ask the system to put a file's bytes, or a folder's names, on the disk."""
    if path.is_dir() and os.name == "nt":
        return
    if path.is_dir() or path.is_file():
        handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
        finally:
            os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        # A writer's threads may still be adding files after its first error.
        for wait_s in (0.0, 0.05, 0.2, 1.0):
            time.sleep(wait_s)
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                return
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
