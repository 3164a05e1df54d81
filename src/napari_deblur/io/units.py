"""Lengths as files write them, in µm."""

from __future__ import annotations

import math
import re
from typing import Any

_MICROMETRES = {
    "m": 1e6, "meter": 1e6, "metre": 1e6,
    "dm": 1e5, "decimeter": 1e5, "decimetre": 1e5,
    "cm": 1e4, "centimeter": 1e4, "centimetre": 1e4,
    "mm": 1e3, "millimeter": 1e3, "millimetre": 1e3,
    "µm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "nm": 1e-3, "nanometer": 1e-3, "nanometre": 1e-3,
    "å": 1e-4, "angstrom": 1e-4,
    "pm": 1e-6, "picometer": 1e-6, "picometre": 1e-6,
    "in": 25400.0, "inch": 25400.0, "ft": 304800.0, "foot": 304800.0,
}  # fmt: skip


def length_um(value: Any, unit: str | None) -> float | None:
    r"""Convert a length to µm.

    Parameters
    ----------
    value : object
        The number, or its text.
    unit : str or None
        Symbol or name; ``\u00B5m`` spelled out, as ImageJ does, is understood.

    Returns
    -------
    float or None
        ``None`` where the number is not a positive length or the unit is not one of length ('pixel').
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), unit or "").strip()
    # Two code points look like µ, and two like Å.
    text = text.replace("μ", "µ").replace("\u212b", "Å").lower()
    factor = _MICROMETRES.get(text) or _MICROMETRES.get(text.removesuffix("s"))
    size = number * factor if factor else 0.0
    return size if math.isfinite(size) and size > 0 else None
