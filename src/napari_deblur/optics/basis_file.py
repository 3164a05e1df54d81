"""A PSF basis as a file: a ``.npz`` archive of plain arrays, without pickle."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.atomic import atomic_path
from napari_deblur.core.errors import InvalidInputError
from napari_deblur.optics.basis_checks import BASIS_KIND

_FORMAT = 1

B = TypeVar("B")


def save_basis(
    about: dict[str, Any], arrays: dict[str, NDArray[Any]], path: str | os.PathLike[str], *, overwrite: bool
) -> Path:
    """Write the parts of a basis, and return where.

    Raises
    ------
    OutputError
        If the file exists and ``overwrite`` is false, or cannot be written.
    """
    meta = {"kind": BASIS_KIND, "format": _FORMAT, **about}
    content = {"meta": np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8), **arrays}
    with atomic_path(path, overwrite, "path") as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **content)  # type: ignore[arg-type]
    return Path(path).expanduser()


def load_basis(path: str | os.PathLike[str], from_parts: Callable[[Any, dict[str, Any]], B]) -> B:
    """Read the parts of a basis, and return what ``from_parts`` makes of arrays and the rest.

    Raises
    ------
    InvalidInputError
        If the file is missing, damaged, or no such basis.
    """
    source = Path(path).expanduser()
    if not source.is_file():
        raise InvalidInputError("psf_basis", "must be an existing file", str(source))
    try:
        with source.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            meta = json.loads(archive["meta"].tobytes().decode())
            if meta.get("kind") != BASIS_KIND or meta.get("format") != _FORMAT:
                raise InvalidInputError("psf_basis", "must be a saved PSF basis", str(source))
            return from_parts(archive, meta)
    except InvalidInputError:
        raise
    except (KeyError, ValueError, OSError, zipfile.BadZipFile, EOFError, TypeError) as error:
        raise InvalidInputError("psf_basis", "must be a saved PSF basis", str(source)) from error
