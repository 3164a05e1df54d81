"""PSF maps as tables for spreadsheets and scripts."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

from napari_deblur.core.atomic import atomic_path
from napari_deblur.core.errors import InvalidInputError
from napari_deblur.optics.psf_map import PsfMap

_SUFFIXES = (".csv", ".json")


def psf_map_rows(psf_map: PsfMap) -> list[dict[str, Any]]:
    """Return one row per position of a map: place, parameters, validity, confidence, expected errors."""
    rows = []
    for row in range(psf_map.grid_shape[0]):
        for col in range(psf_map.grid_shape[1]):
            y, x = (float(value) for value in psf_map.centers_px[row, col])
            entry: dict[str, Any] = {"row": row, "col": col, "y_px": y, "x_px": x}
            for index, name in enumerate(psf_map.parameter_names):
                entry[name] = float(psf_map.parameters[row, col, index])
                if psf_map.predicted_error is not None:
                    entry[f"{name}_error"] = float(psf_map.predicted_error[row, col, index])
            entry["valid"] = bool(psf_map.valid[row, col])
            entry["confidence"] = float(psf_map.confidence[row, col])
            rows.append(entry)
    return rows


def check_table_path(path: Path, argument: str = "table") -> None:
    """Check that a table can be written under this name.

    Raises
    ------
    InvalidInputError
        If the suffix is neither ``.csv`` nor ``.json``.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise InvalidInputError(argument, f"must end in {' or '.join(_SUFFIXES)}", repr(str(path)))


def write_psf_map_table(
    psf_map: PsfMap, path: str | os.PathLike[str], *, overwrite: bool = False, argument: str = "table"
) -> Path:
    """Write a map as CSV or, with its model and record, as JSON.

    Parameters
    ----------
    psf_map : PsfMap
    path : path-like
        Ends in ``.csv`` or ``.json``.
    overwrite : bool
    argument : str
        Name used in errors.

    Raises
    ------
    OutputError, InvalidInputError
        If it cannot be written, or ends in anything else.
    """
    target = Path(path)
    check_table_path(target, argument)
    rows = psf_map_rows(psf_map)
    with atomic_path(target, overwrite, argument) as temporary:
        if target.suffix.lower() == ".csv":
            with temporary.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        else:
            whole = {
                "model": psf_map.model,
                "image_shape": list(psf_map.image_shape),
                "record": psf_map.record,
            }
            text = json.dumps({**whole, "positions": rows}, indent=2, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")
    return target
