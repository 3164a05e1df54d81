from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from napari_deblur.nets.identification import build, default_config
from napari_deblur.nets.weights import WEIGHTS_VARIABLE, load_network
from napari_deblur.optics.psf import family
from napari_deblur.quality import snr_db
from napari_deblur.train import training
from napari_deblur.train.degrade import Batch, Degradation, Sampler, degrade, draw_parameters
from napari_deblur.train.evaluate import Predictions, psf_snr_db, r_squared
from napari_deblur.train.loop import train
from napari_deblur.train.objective import kernel_term
from napari_deblur.train.recipes import network_config, recipe

SMALL = {
    "widths": [16, 16, 16, 16],
    "blocks": [1, 1, 1, 1],
    "spectral_width": 16,
    "spectral_features": 8,
    "hidden": 16,
}
QUICK = {"batch_size": 4, "n_scenes": 8, "n_validation": 16}


def _sampler():
    return Sampler(torch.Generator().manual_seed(0))


def _batch(count):
    parameters = draw_parameters("zernike-7", count, _sampler())
    valid = torch.ones(count, dtype=torch.bool)
    return Batch(torch.zeros(count, 128, 128), parameters, valid, torch.ones(count), torch.ones(count))


def test_the_term_is_least_at_the_truth_and_falls_towards_it():
    network, batch = build(default_config("zernike-7") | SMALL), _batch(12)
    true = (network.targets.encode(batch.parameters) - network.center) / network.scale
    perfect = float(kernel_term(network, batch, true))
    assert perfect == pytest.approx(math.log(0.01 / 1.01), abs=0.02)
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(1))
    far = (true + 0.4 * noise).requires_grad_()
    term = kernel_term(network, batch, far)
    assert float(term.detach()) > perfect + 1
    term.backward()
    moved = far.detach() - 0.5 * far.grad
    assert float(kernel_term(network, batch, moved)) < float(term.detach())


def test_invalid_patches_do_not_count():
    network, batch = build(default_config("zernike-7") | SMALL), _batch(4)
    batch.valid[1:] = False
    mean = torch.zeros(4, network.n_targets, requires_grad=True)
    kernel_term(network, batch, mean).backward()
    assert float(mean.grad[0].abs().sum()) > 0
    assert float(mean.grad[1:].abs().sum()) == 0


def test_the_ratio_is_that_of_the_kernels():
    network = build(default_config("zernike-7") | SMALL)
    true, guess = _batch(3).parameters, _batch(3).parameters * 0.6
    valid = np.array([True, False, True])
    values = [network.targets.encode(part).numpy() for part in (true, guess)]
    found = Predictions(*values, values[0], valid, valid.astype(float), valid.astype(float))
    ratios = psf_snr_db(network.targets, found)
    kernels = [family("zernike-7").kernels(part).numpy() for part in (true, guess)]
    expected = [snr_db(kernels[1][index], kernels[0][index]) for index in (0, 2)]
    np.testing.assert_allclose(ratios, expected, atol=0.01)


def test_r_squared_is_told_of_the_coefficients():
    network = build(default_config("zernike-7") | SMALL)
    values = network.targets.encode(_batch(40).parameters).numpy()
    valid = np.ones(40, bool)
    scores = r_squared(
        network.targets, Predictions(values, values, values, valid, values[:, 0], values[:, 0])
    )
    assert list(scores) == [*family("zernike-7").parameter_names, "mean"]
    assert scores["mean"] == pytest.approx(1, abs=1e-3)


def test_gaussian_noise_is_relative_to_the_signal():
    crops = torch.full((200, 158, 158), 0.2)
    crops[:, 79, 79] = 1.0
    settings = Degradation(invalid_share=0, read_noise_high=0, gaussian_noise_high=0.1)
    photons, zero = torch.full((200,), 1e6), torch.zeros(200, 7)
    batch = degrade(crops, "zernike-7", _sampler(), settings, parameters=zero, photons=photons)
    # A corner holds nothing but noise, of which that of photons is little.
    deviation = batch.patches[:, :12, :12].std(dim=(-2, -1)) / batch.patches.amax(dim=(-2, -1))
    noisy = deviation > 0.005
    assert 0.3 < float(noisy.float().mean()) < 0.6
    assert 0.05 < float(deviation.max()) < 0.13


def test_the_recipe_trains_the_family_at_its_own_cutoff_from_another(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "network_config", lambda *given: network_config(*given) | SMALL)
    assert recipe("deep-blur-identification").models == ("zernike-7",)
    train("zernike-3", tmp_path, steps=1, **QUICK)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    (path,) = train("deep-blur-identification", tmp_path, steps=2, start_from="zernike-3", **QUICK)
    assert path.name == "zernike-7.safetensors"
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["cutoff_cycles_per_px"] == 0.261
    assert card["degradation"]["gaussian_noise_high"] == 0.12
    assert card["training"]["started_from"]["id"] == "zernike-3"
    figures = card["held_out"]["scenes"]
    assert {"psf_snr_db", "vertical_coma_waves", "mean"} <= set(figures)
    assert card["training"]["history"][-1]["scenes"] == figures["psf_snr_db"], "what the best is chosen by"
    network, _ = load_network("zernike-7")
    found = network.estimate(torch.rand((2, 128, 128)), views=4)
    assert found.parameters.shape == found.predicted_error.shape == (2, 7)
