"""Cross-family use: blur of one family read by the network of another and removed with what it read.

The four pairings of Table V of Shajkofci & Liebling 2020 (doi:10.1109/TIP.2020.2986880), in the four-quadrant
test of ``benchmarks.blind_deblurring``: degradation → detection of Z-1 → Z-1, Z-1 → G-1, G-1 → Z-1 and
G-1 → G-1. The published gains stand beside ours where the families are the same; where a network of one
parameter is not at hand, the next larger one of its kind takes its place, without the published figures.

    python -m benchmarks.cross_family --data ../shared/data
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.blind_deblurring import BLIND, KNOWN, bars_of, gains, shipped
from benchmarks.common import arguments, report
from napari_deblur.core.errors import UnknownNameError

ZERNIKE, GAUSSIAN = ("zernike-1", "zernike-3"), ("gaussian-1", "gaussian-2")
PUBLISHED_DB = {
    ("zernike-1", "zernike-1"): (1.65, 2.14),
    ("zernike-1", "gaussian-1"): (1.72, 2.14),
    ("gaussian-1", "zernike-1"): (2.02, 2.24),
    ("gaussian-1", "gaussian-1"): (2.11, 2.24),
}
"""Gain blind and with the true PSFs, in dB."""


def first_of(wanted: tuple[str, ...], known: list[str]) -> str:
    """Return the first family that has a network."""
    for name in wanted:
        if name in known:
            return name
    raise UnknownNameError("models", wanted[0], known)


def main() -> None:
    """Run the four pairings."""
    args = arguments(
        __doc__,
        data={"type": Path, "required": True, "help": "folder with train_micro"},
        images={"type": int, "default": 350},
        seed={"type": int, "default": 7},
    )
    families = [first_of(wanted, shipped()) for wanted in (ZERNIKE, GAUSSIAN)]
    figures: dict[str, Any] = {}
    bars: dict[str, tuple[float, str, float]] = {}
    for degradation in families:
        found = gains(degradation, families, args.data, args.images, args.seed, with_rivals=False)
        for detection in families:
            pairing, blind = f"{degradation} → {detection}", found[f"{BLIND}, {detection}"]
            figures[pairing] = {"images": args.images, "known": found[KNOWN], "blind": blind}
            if (published := PUBLISHED_DB.get((degradation, detection))) is not None:
                figures[pairing]["published_delta_snr_db"] = {"blind": published[0], "known": published[1]}
            bars |= bars_of(pairing, blind)
    report("cross-family deblurring, four quadrants", figures, args.json, bars)


if __name__ == "__main__":
    main()
