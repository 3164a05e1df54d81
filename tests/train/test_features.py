import json

import numpy as np
import pytest
import torch

from napari_deblur.core.errors import CancelledError, InvalidInputError
from napari_deblur.core.run import Run
from napari_deblur.nets.weights import WEIGHTS_VARIABLE, load_network
from napari_deblur.train.degrade import Sampler
from napari_deblur.train.features import LearnedWiener, degraded, motion_kernels, train_features
from napari_deblur.train.tiles import Pool

SMALL = {"steps": 2, "n_scenes": 6, "batch_size": 1, "n_validation": 4}


def test_motion_kernels_are_kernels():
    kernels = motion_kernels(6, np.random.default_rng(0))
    np.testing.assert_allclose(kernels.sum(axis=(1, 2)), 1, rtol=1e-5)
    assert (kernels >= 0).all()
    axis = np.arange(kernels.shape[1]) - kernels.shape[1] // 2
    for along in (1, 2):
        centroid = (kernels.sum(axis=along) * axis).sum(axis=1)
        assert np.abs(centroid).max() < 1
    assert kernels.max(axis=(1, 2)).min() < 0.3  # spread out, not points


def test_batches_match_their_sharp_images():
    rng = np.random.default_rng(0)
    pool = Pool(160)
    pool.add("dots", (rng.random((200, 200)) > 0.99).astype(np.float32), 1.0)
    sampler = Sampler(torch.Generator().manual_seed(0))
    for _ in range(6):
        blurred, kernels, sharp = degraded(pool, 2, rng, sampler)
        assert blurred.shape == sharp.shape == (2, 96, 96)
        torch.testing.assert_close(kernels.sum(dim=(-2, -1)), torch.ones(2), atol=1e-3, rtol=0)
        smooth = torch.nn.functional.avg_pool2d(torch.stack([blurred, sharp]), 31, 8)
        assert float(torch.corrcoef(smooth.flatten(1))[0, 1]) > 0.7


def test_the_network_starts_as_a_wiener_filter():
    network = LearnedWiener()
    kernels = torch.zeros(1, 5, 5)
    kernels[0, 2, 2] = 1
    with torch.no_grad():
        network.log_noise.fill_(-20)
        restored, plain = network(torch.rand(1, 32, 32), kernels)
        again, _ = network(plain, kernels)
    torch.testing.assert_close(restored, plain)
    torch.testing.assert_close(again, plain, atol=1e-4, rtol=1e-4)


def test_a_training_writes_a_network_that_loads(tmp_path, monkeypatch):
    path = train_features(tmp_path, device="cpu", **SMALL)
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["training"]["steps"] == 2
    assert card["training"]["patches"] == 2
    assert set(card["held_out"]) == {"scenes"}
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    network, found = load_network("cider-features")
    assert found["sha256"] == card["sha256"]
    assert network(torch.rand(1, 1, 16, 16)).shape == (1, 16, 16, 16)


def test_a_cancelled_training_writes_nothing(tmp_path):
    run = Run()
    run.on_progress = lambda progress: run.cancel() if "step 1" in progress.message else None
    with pytest.raises(CancelledError):
        train_features(tmp_path, device="cpu", run=run, **SMALL)
    assert not list(tmp_path.iterdir())


def test_options_of_other_recipes_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="validity_weight is not a parameter here"):
        train_features(tmp_path, validity_weight=0.1)
