"""What a first look at an image tells of the whole."""

from __future__ import annotations

import numpy as np

from napari_deblur.optics.settings import Optics
from napari_deblur.stream.seen import Seen, digest


def found(low, high, total, below=0, cut_off=0.0, peak=(0, 0)):
    return {"low": low, "high": high, "sum": total, "below": below, "cut_off": cut_off, "peak": list(peak)}


def test_pieces_of_a_plane_are_put_together():
    pieces = [
        {"absent": ["0.1"], "volumes": {"1": found(2, 9, 30.0), "0": found(5, 5, 10.0)}},
        {"absent": [], "volumes": {"1": found(1, 40, 50.0, 3, 2.5, (7, 8))}},
        {"absent": ["0.0", "0.1"], "volumes": {"10": found(0, 12, 1.0, 1, 0.5)}},
    ]
    seen = Seen.of(pieces)
    assert seen.numbers == [0, 1, 10]
    np.testing.assert_array_equal(seen.lows, [5, 1, 0])
    np.testing.assert_array_equal(seen.highs, [5, 40, 12])
    assert seen.brightest == (1, [7, 8])
    assert (seen.below, seen.total, seen.cut_off) == (4, 91.0, 3.0)
    assert seen.absent == ["0.0", "0.1"]


def test_another_psf_has_another_digest():
    kernel = np.ones((3, 3), np.float32)
    assert digest(kernel) == digest(kernel.copy())
    assert digest(kernel) != digest(2 * kernel)
    assert digest(kernel) != digest(np.ones((1, 9), np.float32))
    optics = [Optics(na=0.5, wavelength_um=w, pixel_size_um=0.1) for w in (0.5, 0.6)]
    assert digest(optics) == digest(list(optics))
    assert digest(optics) != digest(optics[::-1])
    assert digest(None) is None
