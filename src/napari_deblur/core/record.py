"""The record that every result carries: what was done, with what, and what came of it."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGES = ("napari-deblur", "numpy", "torch", "scikit-image", "PyWavelets")


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return dict(_installed())


@cache
def _installed() -> dict[str, str]:
    # Once: reading the packages' metadata takes as long as a few iterations on a small image.
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Record:
    """Provenance of one result; JSON types only.

    Attributes
    ----------
    step : dict
        The step's declaration, with its ``kind``; replaying it repeats the run.
    seed : int
    device : str
    seconds : float
    input : dict
        Name, shape, pixel size of what went in.
    psf : dict
        What the PSF was and where it came from; empty where none was used.
    weights : dict
        sha256 of every network that took part, by id.
    facts : dict
        What was measured on the way (flux, iterations, eigen-PSFs, …).
    notes : list of str
        Remarks and warnings for the user.
    partial : bool
        Whether the run was cancelled and this is the best result until then.
    learned : bool
        Whether a trained network made the pixels.
    versions : dict
    """

    step: dict[str, Any]
    seed: int = 0
    device: str = "cpu"
    seconds: float = 0.0
    input: dict[str, Any] = field(default_factory=dict)
    psf: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    partial: bool = False
    learned: bool = False
    versions: dict[str, str] = field(default_factory=versions)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON types."""
        return asdict(self)

    def to_json(self, indent: int | None = None) -> str:
        """Return the record as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)
