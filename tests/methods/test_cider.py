import numpy as np
import pytest
import torch
from skimage import data

from napari_deblur.blur.convolution import Convolution
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.engine.engine import Engine
from napari_deblur.methods.cider import Cider
from napari_deblur.methods.hyper_laplacian import HyperLaplacian
from napari_deblur.methods.starts import classical_start, clean_share
from napari_deblur.optics.psf import make_psf
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.quality import snr_db
from napari_deblur.steps.deblur import Deblur

SIZE = 64
SHARP = data.camera()[140 : 140 + SIZE + 8, 220 : 220 + SIZE + 8].astype(np.float32) / 255
TRUTH = SHARP[4:-4, 4:-4]
KERNEL = make_psf("gaussian-1", [1.3], size_px=9)
# A classical start is tested elsewhere.
FAST = {"start": "hyper-laplacian", "feature_iterations": 5}


@pytest.fixture(scope="module")
def engine():
    return Engine("cpu")


@pytest.fixture(scope="module")
def blurred():
    from scipy.signal import fftconvolve

    clean = fftconvolve(SHARP, KERNEL, mode="valid")
    return (clean + 0.01 * np.random.default_rng(0).standard_normal(clean.shape)).astype(np.float32)


def run(method, image, engine, **more):
    return Deblur(method=method, **more).run(Image(image), KERNEL, engine=engine)


def test_from_nothing_the_network_learns_the_image(engine, blurred):
    found = [
        snr_db(
            run(Cider(start="nothing", n_iterations=n, feature_iterations=10), blurred, engine).image.data,
            TRUTH,
        )
        for n in (3, 25)
    ]
    assert found[1] > found[0] + 2


def test_the_start_rules_until_the_network_explains_the_data(engine, blurred):
    start = run(HyperLaplacian(), blurred, engine).image.data
    found = [
        run(Cider(n_iterations=n, guidance=weight, **FAST), blurred, engine)
        for n, weight in ((1, 300.0), (60, 300.0), (60, 0.0))
    ]
    first, guided, free = (result.record.facts["share_of_the_network"] for result in found)
    assert 0 <= first < 0.05 < free < guided < 0.5
    np.testing.assert_allclose(found[0].image.data, start, atol=0.05)
    for result in found:
        assert snr_db(result.image.data, TRUTH) > snr_db(start, TRUTH) - 0.3
        assert snr_db(result.image.data, TRUTH) > snr_db(blurred, TRUTH) + 1


def test_it_takes_a_psf_map(engine, blurred):
    widths = np.linspace(1.0, 1.6, 4, dtype=np.float32).reshape(2, 2, 1)
    centers = np.stack(np.meshgrid([15.5, 47.5], [15.5, 47.5], indexing="ij"), axis=-1)
    psf_map = PsfMap.from_parameters("gaussian-1", widths, centers_px=centers, image_shape=(SIZE, SIZE))
    result = Deblur(method=Cider(n_iterations=3, **FAST)).run(Image(blurred), psf_map, engine=engine)
    assert result.record.facts["eigen_psfs"] > 1
    assert snr_db(result.image.data, TRUTH) > snr_db(blurred, TRUTH)


def test_sparsity_darkens(engine, blurred):
    plain, sparse = (
        run(Cider(n_iterations=25, start="nothing", sparsity_weight=w), blurred, engine).image.data
        for w in (0.0, 5.0)
    )
    assert sparse.mean() < 0.97 * plain.mean()


def test_networks_of_several_seeds_are_averaged(engine, blurred):
    method = Cider(n_iterations=3, stop="iterations", **FAST)
    alone = [run(method, blurred, engine, seed=seed).image.data for seed in (4, 5)]
    both = run(method.model_copy(update={"n_networks": 2}), blurred, engine, seed=4).image.data
    assert np.abs(alone[0] - alone[1]).max() > 0
    np.testing.assert_allclose(both, (alone[0] + alone[1]) / 2, atol=1e-5)


def test_it_ends_where_noise_is_all_that_is_left(engine, blurred):
    noisy = blurred + 0.1 * np.random.default_rng(1).standard_normal(blurred.shape).astype(np.float32)
    method = Cider(n_iterations=120, **FAST)
    automatic = run(method, noisy, engine)
    assert 30 <= automatic.record.facts["iterations"] < 120
    full = run(method.model_copy(update={"stop": "iterations"}), noisy, engine)
    assert full.record.facts["iterations"] == 120
    assert snr_db(automatic.image.data, TRUTH) > snr_db(full.image.data, TRUTH) - 0.1
    # The classical start explains less of clean data than their noise: there the network goes on.
    assert run(Cider(n_iterations=40, **FAST), blurred, engine).record.facts["iterations"] == 40


def test_the_image_can_be_watched_while_it_forms(engine, blurred):
    images, job = [], Run()
    job.on_progress = lambda progress: images.append((progress.fraction, progress.partial))
    result = Deblur(method=Cider(n_iterations=5, **FAST)).run(Image(blurred), KERNEL, engine=engine, run=job)
    fractions = [fraction for fraction, _ in images]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    last = images[-1][1]
    assert last.shape == (1, SIZE, SIZE)
    scale = np.abs(blurred).max()
    np.testing.assert_allclose(last[0].numpy() * scale, result.image.data, atol=1e-5)


def test_the_record_says_zero_shot_and_names_the_features(engine, blurred):
    from napari_deblur.nets.weights import find_model

    record = run(Cider(n_iterations=1, **FAST), blurred, engine).record
    assert record.facts["zero_shot"] is True
    assert record.weights == {"cider-features": find_model("cider-features").sha256}
    assert not record.learned


def test_the_start_follows_the_noise(blurred):
    y = torch.from_numpy(blurred)
    noisier = y + 0.2 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    smooth = torch.outer(torch.linspace(0, 1, 40), torch.linspace(0, 1, 40))
    assert 0 < clean_share(noisier) < clean_share(y) < clean_share(smooth) == pytest.approx(1, abs=0.01)
    blur = Convolution(torch.from_numpy(KERNEL), (SIZE, SIZE))
    assert classical_start(y, blur, "nothing", Run()) is None
    starts = {
        kind: classical_start(noisier, blur, kind, Run())
        for kind in ("automatic", "hyper-laplacian", "tv-richardson-lucy")
    }
    torch.testing.assert_close(starts["automatic"], starts["hyper-laplacian"])
    assert float((starts["automatic"] - starts["tv-richardson-lucy"]).abs().max()) > 0.05


@pytest.mark.parametrize("start", ["automatic", "tv-richardson-lucy"])
def test_noise_around_zero_does_not_become_light(engine, start):
    """Cut off at zero, noise has a mean of 0.4 of its deviation; a known background keeps it whole."""
    noise, rng = 0.5, np.random.default_rng(0)
    line = np.zeros((66, 66), np.float32)
    line[33, 15:50] = 20
    clean = Convolution(torch.from_numpy(KERNEL), (58, 58)).forward(torch.from_numpy(line)).numpy()
    y = Image((clean + noise * rng.standard_normal(clean.shape) + 30).astype(np.float32))
    step = Deblur(method=Cider(n_iterations=35, feature_iterations=5, start=start))
    found = step.run(y, KERNEL, engine=engine, background=np.full((58, 58), 30.0, np.float32))
    assert found.record.facts["pedestal"] > 0
    assert found.image.data[:15].mean() < 0.3 * noise
    assert abs(found.residual.data[:15].mean()) < 0.3 * noise
