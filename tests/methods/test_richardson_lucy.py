"""Richardson–Lucy: equal to the textbook's loop, accelerated, stopped by a criterion."""

import json

import numpy as np
import pytest
import torch
from skimage import data

from napari_deblur.blur.convolution import Convolution
from napari_deblur.blur.space_varying import MaskThenConvolve, compress
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.methods.emission import Emission, log_likelihood
from napari_deblur.methods.richardson_lucy import RichardsonLucy, TVRichardsonLucy, weight_from_noise
from napari_deblur.methods.stopping import CrossValidation, Discrepancy
from napari_deblur.optics.psf import make_psf
from napari_deblur.quality import snr_db
from napari_deblur.steps.deblur import Deblur
from napari_deblur.train.scenes import SCENES

SIZE, KERNEL = 96, make_psf("zernike-3", [0.2, 0.1, 0.6], size_px=25)


def scene(size, seed=0):
    """Discs of many sizes on a dim background."""
    rng = np.random.default_rng(seed)
    sharp = np.full((size, size), 0.02, np.float32)
    rows, cols = np.ogrid[:size, :size]
    for _ in range(40):
        y, x, radius = rng.integers(0, size), rng.integers(0, size), rng.integers(1, 7)
        sharp[(rows - y) ** 2 + (cols - x) ** 2 < radius**2] += rng.random()
    return sharp


def blurred_scene(sharp, kernel, photons, seed=1):
    half = kernel.shape[0] // 2
    blur = Convolution(torch.from_numpy(kernel), tuple(size - 2 * half for size in sharp.shape))
    clean = blur.forward(torch.from_numpy(sharp)).clamp_min(0)
    scale = photons / float(clean.max())
    noisy = torch.poisson(clean * scale, generator=torch.Generator().manual_seed(seed)) / photons
    return blur, noisy, blur.crop(torch.from_numpy(sharp)) * scale / photons


@pytest.fixture(scope="module")
def photon_poor():
    return blurred_scene(scene(SIZE + 24), KERNEL, 300)


def textbook(y, blur, n_iterations):
    sensitivity = blur.adjoint(torch.ones_like(y))
    seen = sensitivity > 0.01
    x = y.mean() * seen
    for _ in range(n_iterations):
        x = x * blur.adjoint(y / blur.forward(x).clamp_min(1e-7)) / sensitivity.clamp_min(0.01) * seen
    return x


def maps_blur(y):
    parameters = np.linspace(0.1, 0.3, 4).reshape(2, 2)
    kernels = np.stack(
        [[make_psf("zernike-3", [p, 0.1, 0.5], size_px=25) for p in row] for row in parameters]
    )
    position = np.array([10, 80], np.float32)
    return MaskThenConvolve(compress(kernels, position, position, tolerance=0.02), tuple(y.shape))


@pytest.mark.parametrize("kind", ["kernel", "map", "volume"])
def test_equals_the_textbook_loop_to_1e_5(kind, photon_poor, volume, kernel_3d):
    blur, y, _ = photon_poor
    if kind == "map":
        blur = maps_blur(y)
    elif kind == "volume":
        y = torch.from_numpy(volume[1])
        blur = Convolution(torch.from_numpy(kernel_3d), tuple(y.shape))
    ours = blur.crop(RichardsonLucy(n_iterations=20).solve(y, blur, Run()))
    expected = blur.crop(textbook(y, blur, 20))
    assert float((ours - expected).abs().max()) < 1e-5 * float(expected.max())


@pytest.mark.parametrize("photons", [100, 10_000])
@pytest.mark.parametrize("sharp", ["discs", "camera"])
@pytest.mark.parametrize("sigma", [1.5, 3.0])
def test_accelerated_reaches_the_likelihood_of_100_iterations_in_20(photons, sharp, sigma):
    kernel = make_psf("gaussian-1", [sigma], size_px=21)
    whole = scene(120) if sharp == "discs" else data.camera()[60:180, 160:280].astype(np.float32) / 255 + 0.02
    blur, y, _ = blurred_scene(whole, kernel, photons)
    plain = RichardsonLucy(n_iterations=100).solve(y, blur, Run())
    fast = RichardsonLucy(n_iterations=20, acceleration="line-search").solve(y, blur, Run())
    assert log_likelihood(y, blur.forward(fast)) >= log_likelihood(y, blur.forward(plain))


@pytest.mark.parametrize("kind", ["kernel", "map"])
def test_the_likelihood_of_a_line_search_never_falls(kind, photon_poor):
    blur, y, _ = photon_poor
    blur = maps_blur(y) if kind == "map" else blur
    seen = []
    for n_iterations in (1, 2, 4, 8, 16, 32):
        x = RichardsonLucy(n_iterations=n_iterations, acceleration="line-search").solve(y, blur, Run())
        assert float(x.min()) >= 0
        seen.append(log_likelihood(y, blur.forward(x)))
    assert seen == sorted(seen)


def test_wiener_butterworth_does_in_3_iterations_what_takes_10(photon_poor):
    blur, y, truth = photon_poor
    method = RichardsonLucy(n_iterations=3, back_projector="wiener-butterworth")
    few = blur.crop(method.solve(y, blur, Run())).numpy()
    plain = [blur.crop(RichardsonLucy(n_iterations=n).solve(y, blur, Run())).numpy() for n in (3, 10)]
    scores = [snr_db(x, truth.numpy()) for x in (*plain, few)]
    assert scores[2] > scores[0] + 0.5
    assert scores[2] > scores[1]


def test_a_back_projector_that_does_not_count_is_said(photon_poor):
    blur, y, _ = photon_poor
    run = Run()
    both = {"acceleration": "line-search", "back_projector": "wiener-butterworth"}
    found = RichardsonLucy(n_iterations=2, **both).solve(y, blur, run)
    assert any("matched one was taken" in note for note in run.notes)
    torch.testing.assert_close(
        found, RichardsonLucy(n_iterations=2, acceleration="line-search").solve(y, blur, Run())
    )


@pytest.mark.parametrize("stop", ["no-progress", "discrepancy", "cross-validation"])
@pytest.mark.parametrize("acceleration", ["none", "line-search"])
def test_every_criterion_ends_early_and_reports_its_curve(stop, acceleration, cpu, photon_poor):
    _, y, truth = photon_poor
    method = RichardsonLucy(n_iterations=300, stop=stop, acceleration=acceleration, tolerance=0.01)
    result = Deblur(method=method).run(Image(y.numpy() * 300), KERNEL, engine=cpu)
    stops = result.record.facts["stops"]
    assert len(stops) == 1
    assert stops[0]["criterion"] == stop
    assert 1 < stops[0]["iterations"] < 250
    assert len(stops[0]["curve"]) >= stops[0]["iterations"] - 1
    assert result.record.facts["iterations"] == stops[0]["iterations"]
    json.loads(result.record.to_json())
    if stop == "no-progress" and acceleration != "none":
        return  # it knows nothing of noise, and a line search goes on where the plain loop crawls
    # What the criterion chose is nearer to the truth than far too many iterations.
    overdone = Deblur(method=RichardsonLucy(n_iterations=300)).run(Image(y.numpy() * 300), KERNEL, engine=cpu)
    assert (
        snr_db(result.image.data / 300, truth.numpy()) > snr_db(overdone.image.data / 300, truth.numpy()) + 1
    )


@pytest.mark.parametrize("stop", ["discrepancy", "cross-validation"])
def test_tiles_all_take_the_iterations_found_on_the_whole(stop, cpu):
    blur, y, _ = blurred_scene(scene(200), make_psf("gaussian-1", [1.3], size_px=9), 200)
    kernel, image = blur.kernel.numpy(), Image(y.numpy())
    method = RichardsonLucy(n_iterations=200, stop=stop)
    whole = Deblur(method=method).run(image, kernel, engine=cpu)
    tiled = Deblur(method=method, tile_px=64).run(image, kernel, engine=cpu)
    assert len(tiled.record.facts["stops"]) == 1
    assert whole.record.facts["iterations"] == tiled.record.facts["iterations"]
    assert np.abs(whole.image.data - tiled.image.data).max() < 1e-4 * np.ptp(whole.image.data)


def test_the_noise_that_discrepancy_is_told_counts_in_grey_values(cpu, photon_poor):
    _, y, _ = photon_poor
    image = Image(y.numpy() * 5000)
    taken = []
    for gain in (5.0, 5000 / 300, 50.0):  # grey values per photon; the second is the true one
        method = RichardsonLucy(n_iterations=100, stop="discrepancy", photon_gain=gain, read_noise=0)
        taken.append(Deblur(method=method).run(image, KERNEL, engine=cpu).record.facts["iterations"])
    assert taken[0] == 100
    assert taken[0] > taken[1] > taken[2]


def test_discrepancy_is_chi_squared_per_pixel():
    generator = torch.Generator().manual_seed(0)
    model = torch.linspace(1, 50, 4096).reshape(64, 64)
    y = torch.poisson(model, generator=generator) * 0.1
    criterion = Discrepancy(y=y, photon_gain=0.1, read_variance=0.0)
    assert criterion.of_model(model * 0.1 + 1) is False
    assert criterion.curve[0] > 2
    criterion.of_model(model * 0.1)
    assert criterion.curve[1] == pytest.approx(1, abs=0.1)


def test_cross_validation_takes_the_best_of_its_curve():
    criterion = CrossValidation(y=torch.ones(4, 4), held_out=torch.ones(4, 4, dtype=torch.bool))
    for level in (3.0, 2.0, 1.0, 1.5, 2.5):  # the likelihood of ones is highest at one
        criterion.of_model(torch.full((4, 4), level))
    assert criterion.best(5) == 3


def test_pixels_left_out_do_not_reach_the_estimate(photon_poor):
    blur, y, _ = photon_poor
    weight = torch.ones_like(y)
    weight[::7, ::5] = 0
    changed = torch.where(weight > 0, y, 100.0)
    for acceleration in ("none", "line-search"):
        method = RichardsonLucy(n_iterations=8, acceleration=acceleration)
        same = [method._iterate(image, blur, Run(), None, weight)[0] for image in (y, changed)]
        torch.testing.assert_close(same[0], same[1])


def _noisy_cells(photons):
    """Return (image in 0 to 1, blur, true object) of rendered cells under photon noise."""
    rng = np.random.default_rng(0)
    kernel = torch.from_numpy(make_psf("gaussian-1", [1.5], size_px=13))
    blur = Convolution(kernel, (128, 128))
    scene = torch.from_numpy(SCENES["cells"][0](rng, 140))
    clean = blur.forward(scene)
    counts = rng.poisson(clean.clamp(min=0).numpy() / float(clean.max()) * photons).astype(np.float32)
    y = torch.from_numpy(counts / counts.max())
    return y, blur, blur.crop(scene) / float(clean.max()) * photons / counts.max()


def test_the_weight_of_tv_follows_the_noise():
    weights = [weight_from_noise(_noisy_cells(photons)[0]) for photons in (20, 100, 100_000)]
    assert weights[0] == pytest.approx(1 / 25, rel=0.4)
    assert weights[1] == pytest.approx(1 / 110, rel=0.4)
    assert weights[2] == 0.002
    assert weight_from_noise(torch.rand(8, 8)) == 0.002


def test_a_weight_from_the_noise_restores_few_photons_better():
    y, blur, truth = _noisy_cells(40)

    def error(method):
        return float((blur.crop(method.solve(y, blur, Run())) - truth).norm())

    assert error(TVRichardsonLucy(n_iterations=30)) < 0.75 * error(
        TVRichardsonLucy(n_iterations=30, tv_weight=0.002)
    )


def test_the_weight_that_was_found_is_reported_and_one_that_is_given_stays():
    y, blur, _ = _noisy_cells(40)
    run = Run()
    settled = TVRichardsonLucy().settle(y, blur, run)
    assert run.facts["tv_weight"] == settled.tv_weight > 0.01
    assert TVRichardsonLucy(tv_weight=0.03).settle(y, blur, run).tv_weight == 0.03


def test_a_pedestal_belongs_to_the_image_and_not_to_the_object():
    """With data that are the blurred object plus the pedestal, the object stays as it is, also by pieces."""
    kernel = torch.from_numpy(make_psf("gaussian-1", [1.5], size_px=11))
    blur = Convolution(kernel, (40, 48))
    blur.pedestal = 0.3
    on_grid = torch.zeros(blur.grid_shape)
    truth = blur.object_part(on_grid).copy_(torch.rand(blur.object_shape) + 0.1)
    emission = Emission(blur.forward(truth) + blur.pedestal, blur)
    seen = emission.gain > 0
    again = emission.update_(on_grid, emission.comparison(on_grid))
    torch.testing.assert_close(again[seen], on_grid[seen], rtol=1e-4, atol=1e-5)
