"""Blur that no family describes, and noise that was interpolated."""

from __future__ import annotations

import pytest
import torch

from napari_deblur.optics.noise_floor import noise_floor
from napari_deblur.optics.psf import family
from napari_deblur.train.degrade import Degradation, Sampler, crop_size_px, degrade, draw_parameters
from napari_deblur.train.foreign import enlarged_camera, shake_kernels
from napari_deblur.train.recipes import RECIPES


def _sampler(seed=0):
    return Sampler(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [31, 65])
def test_shake_kernels_are_kernels_inside_their_window(size):
    kernels, again = (shake_kernels(40, size, _sampler(1)) for _ in range(2))
    assert kernels.shape == (40, size, size)
    torch.testing.assert_close(kernels, again)
    assert float(kernels.min()) >= 0
    torch.testing.assert_close(kernels.sum(dim=(-2, -1)), torch.ones(40))
    rim = kernels.sum(dim=(-2, -1)) - kernels[:, 1:-1, 1:-1].sum(dim=(-2, -1))
    assert float(rim.max()) < 0.1
    assert (kernels - kernels[:1]).abs().amax(dim=(-2, -1))[1:].min() > 1e-3


@pytest.mark.parametrize("model", ["gaussian-2", "zernike-3"])
def test_no_kernel_of_a_family_is_like_a_shake(model):
    shaken = shake_kernels(24, 65, _sampler(2)).flatten(1)
    chosen = family(model)
    known = chosen.kernels(draw_parameters(model, 600, _sampler(3)), 65).flatten(1)
    alike = (shaken / shaken.norm(dim=1, keepdim=True)) @ (known / known.norm(dim=1, keepdim=True)).T
    # A kernel of the family finds others nearer to it than this.
    assert float(alike.amax(dim=1).max()) < 0.97
    assert float(alike.amax(dim=1).median()) < 0.85


def test_patches_that_were_shaken_are_invalid_and_others_stay_as_they_are():
    side = crop_size_px("zernike-3", 128)
    crops = torch.rand((12, side, side), generator=torch.Generator().manual_seed(4))
    bright = torch.full((12,), 1e4)
    settings = Degradation(invalid_share=0)
    none, all_of_them = (settings.model_copy(update={"shake_share": share}) for share in (0.0, 1.0))
    assert degrade(crops, "zernike-3", _sampler(), none, photons=bright).valid.all()
    assert not degrade(crops, "zernike-3", _sampler(), all_of_them, photons=bright).valid.any()


def test_noise_of_an_enlarged_image_is_not_white():
    expected = torch.full((1, 512, 512), 400.0)
    image = enlarged_camera(expected, torch.full((1, 1, 1), 2.0), torch.Generator().manual_seed(5))
    assert image.shape == expected.shape
    assert float(image.mean()) == pytest.approx(400, rel=0.01)
    assert noise_floor(image[0].numpy()) is not None
    batch = degrade(
        torch.rand((3, 192, 192)), "zernike-3", _sampler(), Degradation(enlarged_share=1.0, invalid_share=0)
    )
    assert batch.patches.shape == (3, 128, 128)
    assert batch.valid.any()
    # Neighbours' noise goes together.
    step = (image[..., 1:] - image[..., :-1]).var() / image.var()
    assert float(step) < 1.2


def test_recipes_train_with_both_but_the_one_of_leaning_kernels():
    assert RECIPES["zernike"].shake_share > 0
    assert RECIPES["zernike"].enlarged_share > 0
    assert RECIPES["deep-blur-identification"].shake_share == 0
