"""What every method that works in 3D must do there."""

import numpy as np
import pytest
import torch

from napari_deblur.blur.convolution import Convolution
from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.methods.base import registry
from napari_deblur.methods.richardson_lucy import TVRichardsonLucy
from napari_deblur.methods.total_variation import curvature
from napari_deblur.quality import snr_db
from napari_deblur.steps.deblur import Deblur

VOLUMETRIC = sorted(name for name, method in registry().items() if 3 in method.ndim)
FLAT = sorted(name for name, method in registry().items() if 3 not in method.ndim)


def test_the_classical_methods_work_in_3d():
    assert {"wiener", "richardson-lucy", "tv-richardson-lucy"} <= set(VOLUMETRIC)


@pytest.mark.parametrize("method", VOLUMETRIC)
def test_gains_in_3d_more_than_slice_by_slice(method, cpu, volume, kernel_3d):
    sharp, blurred = volume
    found = Deblur(method=method).run(Image(blurred), kernel_3d, engine=cpu)
    flat_psf = kernel_3d.sum(axis=0)
    slices = Deblur(method=method).run(Image(blurred), flat_psf, engine=cpu)
    assert found.record.facts["restored_in"] == "3D"
    assert slices.record.facts["restored_in"] == "2D"
    assert snr_db(found.image.data, sharp) > snr_db(blurred, sharp) + 0.5
    assert snr_db(found.image.data, sharp) > snr_db(slices.image.data, sharp) + 0.3


def test_a_flat_kernel_in_3d_equals_slice_by_slice(cpu, volume, kernel_3d):
    _, blurred = volume
    flat = kernel_3d.sum(axis=0)
    deep = Deblur(method="richardson-lucy").run(
        Image(blurred), flat[None].repeat(3, 0) * [[[0]], [[1]], [[0]]], engine=cpu
    )
    slices = Deblur(method="richardson-lucy").run(Image(blurred), flat, engine=cpu)
    # Each way starts flat: from the volume's mean, or from each plane's.
    assert np.abs(deep.image.data - slices.image.data).max() < 0.05 * float(blurred.max())


@pytest.mark.parametrize("method", [name for name in VOLUMETRIC if registry()[name].tiles_agree])
def test_tiled_volumes_equal_untiled_to_1e_4_of_the_range(method, cpu):
    rng = np.random.default_rng(0)
    wide = rng.random((6, 150, 70)).astype(np.float32) + 0.1
    kernel = np.zeros((3, 3, 3), np.float32)
    kernel[1] = [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    kernel[0, 1, 1] = kernel[2, 1, 1] = 3
    whole = Deblur(method=method).run(Image(wide), kernel, engine=cpu).image.data
    tiled = Deblur(method=method, tile_px=64).run(Image(wide), kernel, engine=cpu).image.data
    assert np.abs(whole - tiled).max() < 1e-4 * np.ptp(whole)


@pytest.mark.parametrize("method", FLAT)
def test_a_method_of_planes_refuses_a_psf_with_a_z_axis(method, cpu, volume, kernel_3d):
    with pytest.raises(InvalidInputError, match="psf must be 2D"):
        Deblur(method=method).run(Image(volume[1]), kernel_3d, engine=cpu)


@pytest.mark.parametrize("steps", [(1.0, 1.0), (3.0, 1.0, 1.0), (1.0, 2.0, 1.5)])
def test_curvature_is_the_gradient_of_total_variation_with_any_steps(steps):
    torch.manual_seed(0)
    x = torch.rand((6, 7, 8)[-len(steps) :], dtype=torch.float64, requires_grad=True)
    squares = 0
    for dim, step in enumerate(steps):
        last = x.narrow(dim, x.shape[dim] - 1, 1)
        squares = squares + (torch.diff(x, dim=dim, append=last) / step) ** 2
    torch.sqrt(squares + 0.01**2).sum().backward()
    torch.testing.assert_close(curvature(x.detach(), 0.01, steps), -x.grad)


def test_tv_in_3d_does_not_amplify_rounding_errors(volume, kernel_3d):
    y = torch.from_numpy(volume[1])
    blur = Convolution(torch.from_numpy(kernel_3d), tuple(y.shape), (3.0, 1.0, 1.0))
    method = TVRichardsonLucy(n_iterations=40, tv_weight=0.05)
    torch.manual_seed(0)
    moved = method.solve(y * (1 + 1e-6 * torch.randn_like(y)), blur, Run())
    assert float((moved - method.solve(y, blur, Run())).abs().max()) < 1e-3 * float(y.max())


def test_planes_far_apart_are_smoothed_less_along_z(volume, kernel_3d):
    y = torch.from_numpy(volume[1])
    along_z = []
    for spacing in ((1.0, 1.0, 1.0), (5.0, 1.0, 1.0)):
        blur = Convolution(torch.from_numpy(kernel_3d), tuple(y.shape), spacing)
        x = blur.crop(TVRichardsonLucy(tv_weight=0.02).solve(y, blur, Run()))
        along_z.append(float(x.diff(dim=0).abs().sum()))
    assert along_z[1] > 1.02 * along_z[0]
