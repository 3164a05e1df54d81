import numpy as np
import pytest
import torch

from napari_deblur import samples
from napari_deblur.core.errors import InvalidInputError
from napari_deblur.optics.psf import family


@pytest.fixture(scope="module")
def grid():
    return samples.tilted_grid(256, tilt_deg=20)


def test_the_same_seed_gives_the_same_sample(grid):
    np.testing.assert_array_equal(samples.tilted_grid(256, tilt_deg=20).image.data, grid.image.data)


def test_depth_is_the_tilted_plane(grid):
    slope = np.diff(grid.depth_um[:, 0]) / samples.OPTICS.pixel_size_um
    np.testing.assert_allclose(np.degrees(np.arctan(slope)), 20, atol=1e-3)
    assert grid.depth_um.mean() == pytest.approx(0, abs=1e-3)


def test_a_dome_has_its_summit_in_the_middle_and_focus_half_way():
    depth = samples.domed_grid(128, height_um=60).depth_um
    assert depth[63:65, 63:65].mean() == pytest.approx(-30, abs=0.1)
    assert depth[0, 0] == pytest.approx(30, abs=1)
    np.testing.assert_allclose(depth, depth.T)
    np.testing.assert_allclose(depth, depth[::-1])


def test_above_and_below_focus_blur_along_crossed_directions(grid):
    """The astigmatic lens smears lines of one direction above the focus and those of the other below."""

    def contrast(rows, axis):
        part = grid.image.data[rows]
        return np.abs(np.diff(part, n=8, axis=axis)).mean()

    top, bottom = slice(0, 64), slice(-64, None)
    assert contrast(top, 0) < contrast(top, 1)
    assert contrast(bottom, 0) > contrast(bottom, 1)


def test_signed_defocus_equals_a_turned_axis():
    signed = samples.zernike_3_parameters(np.array([-0.3]), 0.15, 0.4)
    assert signed[0, 0] == pytest.approx(0.3)
    assert signed[0, 2] == pytest.approx(0.4 + np.pi / 2)


def test_rendering_conserves_light():
    scene = np.zeros((200, 200), np.float32)
    scene[80:120, 80:120] = 1
    waves = np.broadcast_to(np.linspace(-0.4, 0.4, 200, dtype=np.float32)[:, None], scene.shape)
    assert samples.blur_at_depths(scene, waves, 0.1, 0.0).sum() == pytest.approx(scene.sum(), rel=2e-3)


def test_a_point_renders_as_its_own_psf():
    scene = np.zeros((161, 161), np.float32)
    scene[80, 80] = 1
    waves = np.full(scene.shape, 0.3, np.float32)
    image = samples.blur_at_depths(scene, waves, 0.15, 0.2)
    size = len(image)
    kernel = family("zernike-3").kernels(
        torch.tensor([0.3, 0.15, 0.2]), 97, samples.OPTICS.cutoff_cycles_per_px
    )
    half = size // 2
    np.testing.assert_allclose(image, kernel.numpy()[48 - half : 49 + half, 48 - half : 49 + half], atol=1e-6)


def test_true_map_matches_the_depth(grid):
    psf_map = grid.psf_map()
    assert psf_map.image_shape == grid.depth_um.shape
    assert psf_map.parameters[0, 0, 2] == pytest.approx(np.pi / 2)
    assert psf_map.parameters[-1, 0, 2] == pytest.approx(0)


def test_size_is_checked():
    with pytest.raises(InvalidInputError, match="size_px"):
        samples.tilted_cells(10)
