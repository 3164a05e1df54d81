"""The linear step from one known blur to another."""

import pytest
import torch

from napari_deblur.nets.deformable import REFERENCES
from napari_deblur.nets.prefilter import REACH_PX, Prefilter
from napari_deblur.optics.psf import family
from napari_deblur.train.degrade import valid_convolution

CASES = [("zone-plate", (10.0,)), ("zernike-1", (0.3,)), ("zernike-3", (0.2, 0.2, 1.0))]


def filters(model, parameters, noise):
    kernels = family(model).kernels(torch.tensor([REFERENCES[model], parameters]))
    return kernels, Prefilter().filters(kernels[1:], kernels[0], torch.tensor([noise])).detach()


@pytest.mark.parametrize(("model", "parameters"), CASES)
def test_moves_an_image_towards_the_reference(model, parameters):
    torch.manual_seed(0)
    kernels, found = filters(model, parameters, 0.01)
    spectrum = torch.fft.rfft2(torch.randn(1, 320, 320))
    fy, fx = torch.fft.fftfreq(320)[:, None], torch.fft.rfftfreq(320)[None, :]
    sharp = torch.fft.irfft2(spectrum / (torch.hypot(fy, fx) + 0.01), s=(320, 320))
    sharp = sharp / sharp.std()
    reference, blurred = (valid_convolution(sharp, kernel[None]) for kernel in kernels)
    middle = (..., slice(REACH_PX, -REACH_PX), slice(REACH_PX, -REACH_PX))
    before = (blurred - reference)[middle].square().mean()
    after = (Prefilter()(blurred, found).detach() - reference)[middle].square().mean()
    assert after < 0.25 * before


@pytest.mark.parametrize(("model", "parameters"), CASES)
def test_keeps_even_images_and_follows_the_noise(model, parameters):
    _, clean = filters(model, parameters, 0.01)
    _, noisy = filters(model, parameters, 1.0)
    for found in (clean, noisy):
        assert found.shape == (1, 2 * REACH_PX + 1, 2 * REACH_PX + 1)
        assert float(found.sum()) == pytest.approx(1, abs=1e-4)
        torch.testing.assert_close(found, found.flip(-2, -1), atol=1e-5, rtol=0)
    assert noisy.square().sum() < 0.5 * clean.square().sum(), "it amplifies noise less"
    flat = torch.full((1, 90, 80), 3.0)
    torch.testing.assert_close(Prefilter()(flat, clean).detach(), flat, atol=1e-3, rtol=0)


def test_each_part_of_a_batch_has_its_own_filter_and_small_images_pass():
    torch.manual_seed(0)
    delta = torch.zeros(1, 129, 129)
    delta[0, 64, 64] = 1
    moved = delta.roll(3, -1)
    images = torch.randn(4, 40, 36)
    result = Prefilter()(images, torch.cat([delta, moved]))
    torch.testing.assert_close(result[:2], images[:2], atol=1e-5, rtol=0)
    torch.testing.assert_close(result[2:, :, 3:], images[2:, :, :-3], atol=1e-5, rtol=0)
