import numpy as np
import pytest
import torch
from skimage import data

from napari_deblur.blur.convolution import Convolution
from napari_deblur.core.run import Run
from napari_deblur.methods.hyper_laplacian import (
    HyperLaplacian,
    estimate_noise,
    gradient,
    gradient_adjoint,
    measure_data_weight,
    shrink,
)
from napari_deblur.methods.wiener import Wiener
from napari_deblur.optics.psf import make_psf

SHARP = torch.from_numpy(data.camera()[100:200, 200:300].astype(np.float32) / 255)


@pytest.fixture(scope="module")
def blur():
    return Convolution(torch.from_numpy(make_psf("gaussian-1", [1.5], size_px=9)), (92, 92))


@pytest.fixture(scope="module")
def noisy(blur):
    torch.manual_seed(0)
    return blur.forward(SHARP) + 0.01 * torch.randn(92, 92)


@pytest.mark.parametrize("coupling", [1.0, 8.0, 200.0])
def test_shrinking_finds_the_minimum(coupling):
    candidates = torch.linspace(-2, 2, 400_001, dtype=torch.float64)
    threshold = 2 / 3 * (3 * (2 / coupling) ** 3) ** 0.25
    for value in (-1.7, -0.4, 0.05, 0.3, 0.9, 1.9):
        if 0.85 * threshold < abs(value) < 1.02 * threshold:
            continue  # on the ramp, where the minimiser itself jumps
        energy = candidates.abs() ** (2 / 3) + coupling / 2 * (candidates - value) ** 2
        best = float(candidates[energy.argmin()])
        assert float(shrink(torch.tensor([value], dtype=torch.float64), coupling)) == pytest.approx(
            best, abs=1e-4
        )


def test_shrinking_has_no_jump():
    values = torch.linspace(-2, 2, 40_001, dtype=torch.float64)
    assert float(shrink(values, 8.0).diff().abs().max()) < 1e-2


def test_the_gradient_and_its_transpose_agree():
    torch.manual_seed(0)
    x = torch.randn(7, 9, dtype=torch.float64)
    along_y, along_x = torch.randn(6, 9, dtype=torch.float64), torch.randn(7, 8, dtype=torch.float64)
    dy, dx = gradient(x)
    assert float((dy * along_y).sum() + (dx * along_x).sum()) == pytest.approx(
        float((x * gradient_adjoint(along_y, along_x)).sum())
    )


@pytest.mark.parametrize("sigma", [0.005, 0.02, 0.1])
def test_the_noise_of_a_blurred_image_is_measured(blur, sigma):
    torch.manual_seed(1)
    y = blur.forward(SHARP) + sigma * torch.randn(92, 92)
    assert estimate_noise(y) == pytest.approx(sigma, rel=0.15)


@pytest.mark.parametrize("photons", [5, 50, 1000])
def test_the_noise_of_few_photons_is_measured(photons):
    """Most pixels hold none; the bright ones hold nearly all of the noise."""
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    rate = 0.002 + sum(torch.exp(-((y - at) ** 2 + (x - 1.1 * at) ** 2) / 80) for at in (20, 50, 75))
    noisy = torch.poisson(rate * photons, generator=torch.Generator().manual_seed(0)) / photons
    assert estimate_noise(noisy) == pytest.approx(float((rate.mean() / photons).sqrt()), rel=0.2)


def test_the_weight_follows_noise_and_scale(blur, noisy):
    noisier = noisy + 0.05 * torch.randn(92, 92)
    assert measure_data_weight(noisier) < measure_data_weight(noisy) / 5
    # λ weighs squares against powers of 2/3.
    expected = measure_data_weight(noisy) * 3 ** (2 / 3 - 2)
    assert measure_data_weight(3 * noisy) == pytest.approx(expected, rel=1e-4)


def test_the_energy_is_lower_than_wieners(blur, noisy):
    def energy(x):
        dy, dx = gradient(x)
        prior = (dy.abs() ** (2 / 3)).sum() + (dx.abs() ** (2 / 3)).sum()
        return float(1000 * (blur.forward(x) - noisy).square().sum() + prior)

    sparse = HyperLaplacian(data_weight=2000, clip_negative=False).solve(noisy, blur, Run())
    assert energy(sparse) < 0.9 * energy(Wiener(clip_negative=False).solve(noisy, blur, Run()))


def test_more_weight_fits_the_data_closer(blur, noisy):
    residuals = [
        float((blur.forward(HyperLaplacian(data_weight=weight).solve(noisy, blur, Run())) - noisy).norm())
        for weight in (100, 1000, 10_000)
    ]
    assert residuals == sorted(residuals, reverse=True)


def test_the_measured_weight_is_recorded(blur, noisy):
    run = Run()
    settled = HyperLaplacian().settle(noisy, blur, run)
    assert settled.peak == float(noisy.max())
    assert settled.data_weight == run.facts["data_weight"] == measure_data_weight(noisy / settled.peak)
    assert HyperLaplacian(data_weight=5).settle(noisy, blur, Run()).data_weight == 5
