"""The noise of a camera, measured in its images."""

import pytest
import torch

from napari_deblur.optics.noise import measure_noise, poisson_gaussian


def ramp(photons, read_noise=0.0, size=256):
    expected = torch.linspace(0.1, 1, size).expand(size, size) * photons
    return poisson_gaussian(expected, read_noise, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("photons", [30.0, 300.0, 5000.0])
@pytest.mark.parametrize("gain", [0.001, 2.5])
def test_gain_of_photon_noise(photons, gain):
    found, _ = measure_noise(ramp(photons) * gain)
    assert found == pytest.approx(gain, rel=0.1)


def test_read_noise_beside_photons():
    gain, variance = measure_noise(ramp(100.0, read_noise=6.0) * 2)
    assert gain == pytest.approx(2, rel=0.15)
    assert variance == pytest.approx(144, rel=0.15)


def test_read_noise_alone():
    flat = 5 * torch.randn(256, 256, generator=torch.Generator().manual_seed(1)) + 100
    gain, variance = measure_noise(flat)
    assert gain * 100 + variance == pytest.approx(25, rel=0.1)


def test_what_is_known_is_kept():
    image = ramp(100.0, read_noise=6.0)
    assert measure_noise(image, photon_gain=1.0)[0] == 1.0
    assert measure_noise(image, photon_gain=1.0)[1] == pytest.approx(36, rel=0.2)
    assert measure_noise(image, read_variance=36.0) == (pytest.approx(1, rel=0.15), 36.0)
