"""What must hold of the arrays of a PSF basis, and whether a file is one."""

from __future__ import annotations

import json
import os
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_deblur.core.errors import InvalidInputError

if TYPE_CHECKING:
    from napari_deblur.optics.psf_basis import PsfBasis

BASIS_KIND = "psf-basis"
BASIS_ARRAYS = ("kernels", "maps", "rows_px", "cols_px", "coefficients")
_TOLERATED_SUM = 1e-3


def is_basis(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file says of itself that it is a PSF basis."""
    source = Path(path).expanduser()
    with (
        suppress(KeyError, ValueError, OSError, zipfile.BadZipFile, EOFError),
        source.open("rb") as stream,
        np.load(stream, allow_pickle=False) as archive,
    ):
        return bool(json.loads(archive["meta"].tobytes().decode()).get("kind") == BASIS_KIND)
    return False


def check_basis(basis: PsfBasis) -> None:
    """Refuse arrays that do not fit together, or kernels that would not keep the flux.

    Raises
    ------
    InvalidInputError
    """
    kernels, maps = basis.kernels, basis.maps
    if (
        kernels.ndim != 3
        or len(kernels) < 2
        or kernels.shape[1] != kernels.shape[2]
        or kernels.shape[1] % 2 == 0
    ):
        rule = "must have the shape (1 + I, h, h) with h odd"
        raise InvalidInputError("kernels", rule, f"shape {kernels.shape}")
    if maps.ndim != 3 or maps.shape[1:] != (len(basis.rows_px), len(basis.cols_px)) or not len(maps):
        rule = f"must have the shape (J, {len(basis.rows_px)}, {len(basis.cols_px)})"
        raise InvalidInputError("maps", rule, f"shape {maps.shape}")
    for name in ("rows_px", "cols_px"):
        if (np.diff(getattr(basis, name)) <= 0).any():
            raise InvalidInputError(name, "must ascend", "other positions")
    wanted = (len(basis.labels), len(kernels) - 1, len(maps))
    if basis.coefficients.shape != wanted or not wanted[0]:
        rule = f"must have the shape {wanted}, one field at least"
        raise InvalidInputError("coefficients", rule, f"shape {basis.coefficients.shape}")
    for name in BASIS_ARRAYS:
        if not np.isfinite(getattr(basis, name)).all():
            raise InvalidInputError(name, "must be finite", "NaN or infinity")
    sums = kernels.sum(axis=(1, 2)) - np.eye(len(kernels))[0]
    if np.abs(sums).max() > _TOLERATED_SUM:
        rule = "must hold the mean PSF of sum 1 and eigen-PSFs of sum 0"
        raise InvalidInputError("kernels", rule, f"sums off by {np.abs(sums).max():.3g}")
