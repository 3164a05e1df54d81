"""What a first look at an image tells of the whole, and what tells one PSF from another."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.image import Image
from napari_deblur.optics.psf_basis import PsfBasis
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.psf_rules import BlindPsf


@dataclass(frozen=True, eq=False)
class Seen:
    """What the pieces of a first pass found, put together.

    Attributes
    ----------
    numbers : list of int
        Of the planes or volumes, in order; ``lows`` and ``highs`` go with them.
    lows, highs : ndarray, float32
    brightest : tuple of (int, list of int)
        The plane or volume with the largest value, and where in it that lies.
    below : int
        Number of values below the camera's offset.
    total, cut_off : float
        Sum of all values, and of how far those below the offset lie below it.
    absent : list of str
        Pieces that the file does not hold.
    """

    numbers: list[int]
    lows: NDArray[np.float32]
    highs: NDArray[np.float32]
    brightest: tuple[int, list[int]]
    below: int
    total: float
    cut_off: float
    absent: list[str]

    @classmethod
    def of(cls, pieces: Iterable[dict[str, Any]]) -> Seen:
        """Put together what `napari_deblur.stream.stages.scan` found."""
        ranges: dict[int, list[float]] = {}
        below, total, cut_off, absent = 0, 0.0, 0.0, set[str]()
        brightest: tuple[float, int, list[int]] = (-math.inf, 0, [])
        for piece in pieces:
            absent |= set(piece["absent"])
            for key, one in piece["volumes"].items():
                number = int(key)
                low, high = ranges.get(number, [math.inf, -math.inf])
                ranges[number] = [min(low, one["low"]), max(high, one["high"])]
                below, total = below + one["below"], total + one["sum"]
                cut_off += one["cut_off"]
                brightest = max(brightest, (one["high"], number, one["peak"]))
        numbers = sorted(ranges)
        lows, highs = (np.array([ranges[n][end] for n in numbers], np.float32) for end in (0, 1))
        return cls(numbers, lows, highs, brightest[1:], below, total, cut_off, sorted(absent))


def digest(psf: Any) -> Any:
    """Return what tells one PSF from another (JSON types)."""
    if psf is None or isinstance(psf, str):
        return psf
    if isinstance(psf, BlindPsf):
        return [psf.model, psf.one_psf]
    if isinstance(psf, Optics):
        return psf.model_dump(mode="json")
    if isinstance(psf, list):
        return [digest(one) for one in psf]
    if isinstance(psf, PsfBasis):
        return [digest(psf.kernels), digest(psf.maps), digest(psf.coefficients)]
    if isinstance(psf, Image):
        return [digest(psf.data), psf.axes, psf.pixel_size_um, psf.z_step_um]
    found = hashlib.sha256()
    arrays = [psf.parameters, psf.centers_px] if isinstance(psf, PsfMap) else [psf]
    for array in arrays:
        found.update(repr(np.shape(array)).encode() + np.ascontiguousarray(array, np.float32).tobytes())
    return found.hexdigest()
