import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, zoom

from napari_deblur.optics.noise import measure_noise
from napari_deblur.optics.noise_floor import dark_noise, noise_floor, noise_variance, with_white_noise
from napari_deblur.train.scenes import SCENES

PHOTONS = 50.0


def blurred(kind, sigma_px, size=256, seed=3):
    scene = gaussian_filter(SCENES[kind][0](np.random.default_rng(seed), size), sigma_px)
    return (scene / scene.max()).astype(np.float32)


def noisy(scene, photons=PHOTONS, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.poisson(photons * scene) + rng.normal(0, 1, scene.shape)).astype(np.float32)


@pytest.mark.parametrize("factor", [1.5, 2, 3])
@pytest.mark.parametrize("kind", ["filaments", "texture"])
def test_finds_the_noise_of_enlarged_images(kind, factor):
    camera = noisy(blurred(kind, 2.0) + 0.3)
    floor = noise_floor(zoom(camera, factor, order=3).astype(np.float32))
    per_pixel = float(camera.mean()) + 1
    # Each pixel became factor² pixels that share its noise.
    assert floor.density == pytest.approx(per_pixel * factor**2, rel=0.3)
    assert per_pixel / 2 < floor.variance < per_pixel


@pytest.mark.parametrize("size", [96, 128, 192])
@pytest.mark.parametrize("kind", ["cells", "filaments", "texture"])
def test_finds_it_in_small_crops(kind, size):
    enlarged = zoom(noisy(blurred(kind, 2.0) + 0.3), 2, order=3).astype(np.float32)
    crops = [enlarged[y : y + size, x : x + size] for y in (0, 300) for x in (0, 300)]
    found = [noise_floor(crop) for crop in crops]
    assert sum(floor is not None for floor in found) >= 3
    camera = noisy(blurred(kind, 2.0) + 0.3)
    assert noise_floor(camera[:size, :size]) is None
    assert noise_floor(enlarged[:95, :200]) is None


@pytest.mark.parametrize("sigma_px", [0.7, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("kind", sorted(SCENES))
@pytest.mark.parametrize("photons", [20, 2000])
def test_leaves_images_alone_that_were_not_enlarged(kind, sigma_px, photons):
    assert noise_floor(noisy(blurred(kind, sigma_px), photons)) is None


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [96, 160, 256])
def test_points_all_over_are_not_taken_for_noise(size, seed):
    rng = np.random.default_rng(seed)
    points = np.zeros((size, size))
    points[tuple(rng.integers(0, size, (2, size * size // 40)))] = 1500
    assert noise_floor(rng.poisson(gaussian_filter(points, 1.3) + 20).astype(np.float32)) is None


@pytest.mark.parametrize("kind", sorted(SCENES))
def test_blur_without_noise_is_not_taken_for_noise(kind):
    assert noise_floor(blurred(kind, 2.0)) is None
    assert noise_floor(np.full((256, 256), 5, np.float32)) is None


def test_filling_makes_the_noise_white():
    flat = np.full((256, 256), 0.8, np.float32)
    enlarged = zoom(noisy(flat), 2, order=3).astype(np.float32)
    floor = noise_floor(enlarged)
    filled = floor.filled(enlarged)
    gain, variance = measure_noise(torch.from_numpy(filled - filled.mean()))
    assert variance + gain * 0 == pytest.approx(floor.density, rel=0.1)
    assert measure_noise(torch.from_numpy(enlarged - enlarged.mean()))[1] < 0.1 * floor.density
    power = np.abs(np.fft.rfft2(filled - filled.mean())) ** 2 / filled.size
    radius = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(512)[None])
    rings = [power[(radius > low) & (radius < low + 0.1)].mean() for low in (0.05, 0.15, 0.25, 0.35)]
    np.testing.assert_allclose(rings, floor.density, rtol=0.25)


def test_the_same_seed_fills_the_same():
    enlarged = zoom(noisy(blurred("texture", 2.0)), 2, order=3).astype(np.float32)
    floor = noise_floor(enlarged)
    np.testing.assert_array_equal(floor.filled(enlarged, 1), floor.filled(enlarged, 1))
    assert np.any(floor.filled(enlarged, 1) != floor.filled(enlarged, 2))


def test_white_noise_passes_untouched():
    y = torch.from_numpy(noisy(blurred("cells", 2.0)))
    assert with_white_noise(y) is y
    stack = torch.from_numpy(np.stack([zoom(noisy(blurred("texture", 2.0)), 2, order=3)] * 3))
    filled = with_white_noise(stack)
    assert filled.shape == stack.shape
    assert bool((filled != stack).any())


def test_dark_noise_is_that_without_light():
    rng = np.random.default_rng(0)
    light = 500 * blurred("points", 2.0)
    image = (rng.poisson(light + 40) - 40 + rng.normal(0, 3, light.shape)).astype(np.float32)
    assert dark_noise(image) == pytest.approx(7.0, rel=0.15)
    small = rng.normal(0, 3, (12, 40)).astype(np.float32)
    assert dark_noise(small) == pytest.approx(3.0, rel=0.2)


def test_the_mean_variance_is_that_per_pixel_also_when_enlarged():
    scene = blurred("texture", 2.0) + 0.3
    camera = noisy(scene)
    truth = PHOTONS * float(scene.mean()) + 1
    assert noise_variance(torch.from_numpy(camera)) == pytest.approx(truth, rel=0.15)
    enlarged = torch.from_numpy(zoom(camera, 2, order=3).astype(np.float32))
    assert noise_variance(enlarged) == pytest.approx(truth, rel=0.4)
    assert noise_variance(torch.ones(8, 40)) == 0
