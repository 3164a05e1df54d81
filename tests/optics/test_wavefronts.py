from __future__ import annotations

import numpy as np
import pytest

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.optics.wavefronts import wavefront_waves


def test_a_wavefront_ends_at_the_pupil_and_has_its_coefficients_rms():
    waves = wavefront_waves("zernike-7", [0.1, -0.05, 0.08, 0.12, -0.07, 0.03, -0.1], 120)
    assert waves.shape == (120, 120)
    assert np.isnan(waves[0, 0])
    assert np.isfinite(waves[60, 0])
    rms = np.linalg.norm([0.1, 0.05, 0.08, 0.12, 0.07, 0.03, 0.1])
    assert np.sqrt(np.nanmean(waves**2)) == pytest.approx(rms, rel=0.01)


def test_power_and_axis_are_two_signed_coefficients():
    axis = 0.7
    oblique, vertical = 0.12 * np.sin(2 * axis), 0.12 * np.cos(2 * axis)
    three = wavefront_waves("zernike-3", [0.1, 0.12, axis])
    np.testing.assert_allclose(
        wavefront_waves("zernike-7", [0.1, oblique, vertical, 0, 0, 0, 0]), three, atol=1e-6
    )
    np.testing.assert_allclose(
        wavefront_waves("zernike-1", [0.1]) + wavefront_waves("zernike-2", [0.12, axis]), three, atol=1e-6
    )


def test_a_family_without_a_pupils_phase_has_none():
    assert wavefront_waves("gaussian-2", [1.0, 2.0]) is None


def test_bad_input_is_refused():
    with pytest.raises(InvalidInputError, match="size_px must be 1 or more"):
        wavefront_waves("zernike-1", [0.1], 0)
    with pytest.raises(InvalidInputError, match="defocus_waves"):
        wavefront_waves("zernike-1", [-0.1])
