from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from napari_deblur.optics.noise import poisson_gaussian
from napari_deblur.optics.psf import FAMILIES, family, make_psf
from napari_deblur.train.degrade import (
    Degradation,
    Sampler,
    crop_size_px,
    degrade,
    draw_parameters,
    texture_contrast,
    valid_convolution,
)


def _sampler(seed=0):
    return Sampler(torch.Generator().manual_seed(seed))


def _crops(count, size, seed=0):
    return torch.rand((count, size, size), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("photons", [0.5, 20.0, 99.0, 101.0, 3000.0])
def test_noise_has_the_mean_and_variance_of_poisson_plus_gaussian(photons):
    noisy = poisson_gaussian(torch.full((400, 400), photons), 3.0, torch.Generator().manual_seed(1))
    variance = photons + 9
    assert float(noisy.mean()) == pytest.approx(photons, abs=5 * math.sqrt(variance / 160_000))
    assert float(noisy.var()) == pytest.approx(variance, rel=0.03)


def test_dim_pixels_are_counts_and_negative_ones_are_dark():
    noisy = poisson_gaussian(torch.tensor([[3.0, -5.0], [50.0, 0.0]]), 0.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(noisy, noisy.round())
    assert float(noisy[0, 1]) == float(noisy[1, 1]) == 0


def test_valid_convolution_is_true_convolution():
    crop = _crops(1, 40)
    kernel = torch.from_numpy(make_psf("zernike-3", [0.2, 0.2, 0.5], 9))
    kernel = kernel * torch.linspace(0.2, 1, 81).reshape(9, 9)
    direct = convolve2d(crop[0].numpy(), kernel.numpy(), mode="valid")
    np.testing.assert_allclose(valid_convolution(crop, kernel[None])[0].numpy(), direct, atol=1e-5)


@pytest.mark.parametrize("model", list(FAMILIES))
def test_parameters_fill_the_familys_ranges(model):
    parameters = draw_parameters(model, 2000, _sampler())
    for column, (low, high) in zip(parameters.T, family(model).parameter_ranges.values(), strict=True):
        assert low <= float(column.min()) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < float(column.max()) <= high


@pytest.mark.parametrize("model", ["gaussian-2", "zernike-3"])
def test_degraded_patches_are_seeded_finite_and_of_the_patch_size(model):
    crops = _crops(6, crop_size_px(model, 128))
    batch, again = (degrade(crops, model, _sampler(5), Degradation()) for _ in range(2))
    assert batch.patches.shape == (6, 128, 128)
    assert torch.isfinite(batch.patches).all()
    torch.testing.assert_close(batch.patches, again.patches)
    assert torch.all((batch.photons >= 50) & (batch.photons <= 20000))


def test_given_parameters_and_photons_are_used():
    crops = _crops(2, 168)
    parameters = torch.tensor([[0.5, 0.5], [4.0, 0.5]])
    settings = Degradation(invalid_share=0, read_noise_high=0)
    batch = degrade(
        crops, "gaussian-2", _sampler(), settings, parameters=parameters, photons=torch.full((2,), 5e4)
    )
    torch.testing.assert_close(batch.parameters, parameters)
    assert float(batch.patches.amax()) == pytest.approx(5e4, rel=0.05)
    down, across = (
        batch.patches.diff(dim=dim).var(dim=(-2, -1)) / batch.patches.var(dim=(-2, -1)) for dim in (1, 2)
    )
    assert float(down[1]) < 0.5 * float(across[1])


def test_patches_without_texture_are_invalid():
    settings = Degradation()
    empty, never_empty = (settings.model_copy(update={"invalid_share": share}) for share in (1, 0))
    assert not degrade(_crops(4, 168), "gaussian-2", _sampler(), empty).valid.any()
    dark = degrade(torch.zeros((4, 168, 168)), "gaussian-2", _sampler(), settings)
    assert not dark.valid.any()
    assert torch.isfinite(dark.patches).all()
    sharp, bright = torch.full((4, 2), 1.0), torch.full((4,), 1e4)
    crops = _crops(4, 168)
    assert degrade(crops, "gaussian-2", _sampler(), never_empty, parameters=sharp, photons=bright).valid.all()


def test_a_gradient_counts_for_little_and_texture_for_all():
    ramp = torch.linspace(0, 1, 128).expand(1, 128, 128)
    waves = 0.5 + 0.5 * torch.sin(torch.arange(128) * 0.8).expand(1, 128, 128)
    assert float(texture_contrast(ramp)) < 0.3 * float(ramp.std())
    assert float(texture_contrast(waves)) == pytest.approx(float(waves.std()), rel=0.05)
    assert float(texture_contrast(waves + 1e4)) == pytest.approx(float(waves.std()), rel=0.05)
