from __future__ import annotations

import numpy as np
import pytest

from napari_deblur.train.scenes import SCENES, draw_scenes


@pytest.mark.parametrize("kind", list(SCENES))
def test_every_kind_is_sharp_finite_in_range_and_seeded(kind):
    draw, _ = SCENES[kind]
    first, again, other = (draw(np.random.default_rng(seed), 96) for seed in (3, 3, 4))
    assert first.shape == (96, 96)
    assert first.dtype == np.float32
    assert float(first.min()) == 0
    assert float(first.max()) == pytest.approx(1)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_kinds_come_in_their_shares():
    drawn = [kind for kind, _ in draw_scenes(50, 64, seed=0)]
    for kind, (_, share) in SCENES.items():
        assert drawn.count(kind) == pytest.approx(50 * share, abs=1)
    assert drawn != sorted(drawn)
