from __future__ import annotations

import pytest
import torch

from napari_deblur.nets.asymmetry import AsymmetryBranch
from napari_deblur.nets.dense import estimate_planes
from napari_deblur.nets.identification import build, default_config
from napari_deblur.nets.views import normalise, view
from napari_deblur.optics.psf import family
from napari_deblur.train.degrade import valid_convolution

SMALL = {
    "widths": [16, 16, 16, 16],
    "blocks": [1, 1, 1, 1],
    "spectral_width": 16,
    "spectral_features": 8,
    "hidden": 16,
}


@pytest.fixture(scope="module")
def branch():
    torch.manual_seed(0)
    return AsymmetryBranch(128, 6, 16, 8, 4).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def patches():
    """Bright points, blurred by coma of either sign along x, and by none."""
    points = (torch.rand((1, 158, 158), generator=torch.Generator().manual_seed(0)) > 0.99).float()
    coma = torch.zeros(3, 7)
    coma[0, 4], coma[1, 4] = 0.15, -0.15
    kernels = family("zernike-7").kernels(coma)
    return normalise(valid_convolution(points.expand(3, -1, -1), kernels))


def test_the_lean_of_a_kernel_shows_in_opposite_lags(branch, patches):
    maps = branch.statistics(patches).maps
    torch.testing.assert_close(maps, -maps.flip(-2, -1))
    right, left, none = maps[:, 0, 6, 7:].sum(dim=-1)
    assert float(right) * float(left) < 0
    assert abs(float(none)) < 0.3 * min(abs(float(right)), abs(float(left)))


def test_the_differences_turn_with_the_patch(branch, patches):
    seen = branch.statistics(patches)
    for number in (1, 2, 4, 7):
        turned = branch.statistics(view(patches, number).contiguous())
        torch.testing.assert_close(turned.maps, seen.view(number).maps, atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(turned.scalars, seen.scalars, atol=1e-4, rtol=1e-4)


def test_what_is_turned_by_180_degrees_has_the_opposite_answer(branch, patches):
    seen, context = branch.statistics(patches), torch.rand(3, 8)
    torch.testing.assert_close(branch(seen.view(6), context), -branch(seen, context), atol=1e-5, rtol=1e-4)


def test_bright_and_dark_exchanged_keep_half_of_it(branch, patches):
    seen, dark = branch.statistics(patches).maps, branch.statistics(-patches).maps
    torch.testing.assert_close(dark[:, ::2], -seen[:, ::2], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(dark[:, 1::2], seen[:, 1::2], atol=1e-4, rtol=1e-3)


def test_an_empty_patch_has_finite_differences(branch):
    seen = branch.statistics(torch.zeros(1, 1, 128, 128))
    assert torch.isfinite(seen.maps).all()
    assert torch.isfinite(branch(seen, torch.zeros(1, 8))).all()


def test_only_families_with_odd_orders_have_the_branch():
    assert build(default_config("zernike-3") | SMALL).asymmetry is None
    assert build(default_config("zernike-7") | SMALL).asymmetry is not None


def test_whole_planes_are_read_as_their_patches_are(patches):
    torch.manual_seed(1)
    net = build(default_config("zernike-7") | SMALL).eval().requires_grad_(False)
    plane = patches[0, 0].repeat(2, 2)[:200, :240]
    cut = torch.stack([plane[y : y + 128, x : x + 128] for y in (0, 60) for x in (0, 100)])
    alone = net.estimate(cut, 4)
    found = estimate_planes(net, plane[None], [0, 60], [0, 100], 4, dtype=torch.float32, dense=False)
    torch.testing.assert_close(found.quantities, alone.quantities, atol=2e-4, rtol=1e-3)
    without = net.asymmetry
    net.asymmetry = None
    assert not torch.allclose(net.estimate(cut, 4).quantities[:, 6:], alone.quantities[:, 6:], atol=1e-4)
    net.asymmetry = without
