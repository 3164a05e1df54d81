from __future__ import annotations

import copy
import json

import pytest
import torch

from napari_deblur.core.errors import CancelledError, InvalidInputError, UnknownNameError, WeightsError
from napari_deblur.core.run import Run
from napari_deblur.nets.identification import build, default_config
from napari_deblur.nets.targets import targets
from napari_deblur.nets.weights import WEIGHTS_VARIABLE, load_network
from napari_deblur.optics.psf import FAMILIES
from napari_deblur.train import start, training
from napari_deblur.train.checkpoint import State
from napari_deblur.train.joint import SHARED_PREFIXES, Networks
from napari_deblur.train.loop import train
from napari_deblur.train.objective import learning_rate
from napari_deblur.train.recipes import RECIPES, TOGETHER, Recipe, network_config, recipe

# Widths are multiples of 16: with 8, the bfloat16 gradient of a strided 1 × 1 convolution corrupts memory in
# torch 2.13 on CPUs with AVX-512.
SMALL = {
    "widths": [16, 16, 16, 16],
    "blocks": [1, 1, 1, 1],
    "spectral_width": 16,
    "spectral_features": 8,
    "hidden": 16,
}
QUICK = {"batch_size": 4, "n_scenes": 8, "n_validation": 16}


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    """Train a network of a few thousand weights."""
    monkeypatch.setattr(training, "network_config", lambda *given: network_config(*given) | SMALL)


@pytest.mark.parametrize("model", ["gaussian-2", "zernike-3"])
def test_a_few_steps_write_weights_and_a_card_that_load(model, tmp_path, monkeypatch):
    messages = []
    (path,) = train(
        model, tmp_path, steps=3, run=Run(on_progress=lambda p: messages.append(p.fraction)), **QUICK
    )
    assert path == tmp_path / f"{model}.safetensors"
    assert messages[-1] == 1
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["training"]["complete"]
    assert card["training"]["steps"] == 3
    assert card["training"]["patches"] == 12
    assert card["recipe"]["seed"] == 0
    assert set(card["held_out"]) == {"scenes"}
    assert "mean" in card["held_out"]["scenes"]
    assert all(group.startswith("scenes") for group in card["data"]["groups"])
    assert card["cutoff_cycles_per_px"] == (0.22 if model == "zernike-3" else None)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    network, _ = load_network(model)
    assert torch.isfinite(network(torch.rand((2, 128, 128)))[0]).all()


def test_a_resumed_training_equals_one_that_ran_through(tmp_path):
    (through,) = train("gaussian-2", tmp_path / "through", steps=4, **QUICK)

    run = Run()
    run.on_progress = lambda p: run.cancel() if p.message.startswith("step 2") else None
    with pytest.raises(CancelledError) as cancelled:
        train("gaussian-2", tmp_path / "resumed", steps=4, run=run, **QUICK)
    kept = tmp_path / "resumed" / "gaussian-2.checkpoint.pt"
    assert kept.is_file()
    assert str(kept) in cancelled.value.hint
    (resumed,) = train("gaussian-2", tmp_path / "resumed", steps=4, **QUICK)
    assert resumed.read_bytes() == through.read_bytes()


def test_one_batch_can_be_learned_by_heart(tmp_path):
    chosen = Recipe(id="gaussian-2", steps=15, warm_up=0, learning_rate=5e-3, **QUICK)
    learning = training.Training(chosen, tmp_path, None, torch.device("cpu"), None)
    batch = next(learning.batches())
    squares = [learning.step(batch)["square"] for _ in range(15)]
    assert squares[-1] < 0.5 * squares[0]


def test_the_trunk_of_another_family_can_be_taken(tmp_path, monkeypatch):
    train("zernike-3", tmp_path, steps=1, **QUICK)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    (path,) = train("gaussian-2", tmp_path, steps=1, start_from="zernike-3", **QUICK)
    started = json.loads(path.with_suffix(".json").read_text())["training"]["started_from"]
    assert started["id"] == "zernike-3"
    assert started["quantities"] == []


def test_the_rows_of_quantities_with_the_same_name_are_taken(monkeypatch):
    config = default_config("zernike-3")
    old = build(config | {"regressed": list(reversed(targets("zernike-3").of_parameters))})
    monkeypatch.setattr(start, "load_network", lambda _: (old, {"sha256": "0" * 64}))
    network = build(config)
    before = network.mean.weight.detach().clone()
    facts = start.take_weights(network, "zernike-3")
    assert facts["quantities"] == list(targets("zernike-3").of_parameters)
    torch.testing.assert_close(network.mean.weight[:4], old.mean.weight.flip(0))
    torch.testing.assert_close(network.mean.weight[4:], before[4:])
    torch.testing.assert_close(network.spatial.stem[0].weight, old.spatial.stem[0].weight)
    other = build(config | {"widths": [16, 32, 64, 96]})
    with pytest.raises(InvalidInputError, match="same architecture"):
        start.take_weights(other, "zernike-3")


def test_families_trained_together_share_one_file_of_branches(tmp_path, monkeypatch):
    paths = train("identification", tmp_path, steps=2, **(QUICK | {"batch_size": 10}))
    together = TOGETHER["identification"]
    assert [path.stem for path in paths] == list(together)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    loaded = {path.stem: load_network(path.stem) for path in paths}
    first = loaded["gaussian-1"][0].state_dict()
    for model, (network, card) in loaded.items():
        assert network.model == card["id"] == model
        assert card["shared"]["file"] == "identification.safetensors"
        assert card["training"]["patches"] == 4
        assert len(card["training"]["together_with"]) == len(together) - 1
        branches = {
            name: value for name, value in network.state_dict().items() if name.startswith(SHARED_PREFIXES)
        }
        assert branches
        assert all(torch.equal(first[name], value) for name, value in branches.items())
    heads = (tmp_path / "zernike-3.safetensors").stat().st_size
    assert heads < (tmp_path / "identification.safetensors").stat().st_size
    (tmp_path / "identification.safetensors").write_bytes(b"changed")
    with pytest.raises(WeightsError, match="was changed or damaged"):
        load_network("zernike-3")


def test_shared_branches_move_once_per_step():
    pair = Networks([default_config(model) | SMALL for model in ("gaussian-1", "gaussian-2")])
    state = State(pair, copy.deepcopy(pair), torch.optim.SGD(pair.parameters()))
    before = state.average.each()["gaussian-2"].spatial.stem[0].weight.detach().clone()
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.add_(1)
    state.update_average(0.75)
    moved = state.average.each()
    torch.testing.assert_close(moved["gaussian-2"].spatial.stem[0].weight.detach(), before + 0.25)
    assert moved["gaussian-1"].spatial is moved["gaussian-2"].spatial


def test_heads_see_the_features_of_their_own_patches():
    pair = Networks([default_config(model) | SMALL for model in ("gaussian-1", "zernike-3")]).eval()
    patches = {"gaussian-1": torch.rand(2, 128, 128), "zernike-3": torch.rand(3, 128, 128)}
    with torch.no_grad():
        together = pair(patches)
        for model, network in pair.each().items():
            for found, alone in zip(together[model], network(patches[model]), strict=True):
                torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", ["compact", "full"])
def test_all_families_together_ship_in_twelve_megabytes(size):
    chosen = recipe("identification").model_copy(update={"size": size})
    networks = Networks([network_config(chosen, model) for model in chosen.models])
    assert 2 * sum(parameter.numel() for parameter in networks.parameters()) < 12e6


def test_learning_rate_rises_then_falls_to_zero():
    chosen = recipe("zernike-3")
    rates = [learning_rate(chosen, fraction) for fraction in (0, 0.02, 0.05, 0.5, 1.0, 1.5)]
    assert rates[0] < rates[1] < rates[2] == pytest.approx(chosen.learning_rate)
    assert rates[2] > rates[3] > rates[4] == pytest.approx(0)
    assert rates[5] == pytest.approx(0)


def test_recipes_are_declared_for_the_shipped_families():
    assert set(RECIPES) >= {*TOGETHER, *recipe("identification").models}
    assert recipe("zernike-1").models == ("zernike-1",)
    assert {model for models in TOGETHER.values() for model in models} <= set(FAMILIES)
    full = recipe("zernike-3").model_copy(update={"size": "full"})
    compact = network_config(recipe("zernike-3"), "zernike-3")
    assert network_config(full, "zernike-3")["widths"] > compact["widths"]


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="recipe must be one of"):
        train("zernike-99", tmp_path)
    with pytest.raises(InvalidInputError, match="steps"):
        train("gaussian-2", tmp_path, steps=0)
    with pytest.raises(InvalidInputError, match="data_dir"):
        train("gaussian-2", tmp_path, steps=1, data_dir=tmp_path / "nowhere")


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    (tmp_path / "gaussian-2.checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match="checkpoint"):
        train("gaussian-2", tmp_path, steps=1, **QUICK)


def test_recipe_fields_are_bounded():
    with pytest.raises(ValueError, match="batch_size"):
        Recipe(id="gaussian-2", batch_size=1)


def test_training_ends_when_nothing_improves_and_keeps_the_best(tmp_path, monkeypatch):
    scores = iter([0.3, 0.5, 0.4, 0.45, 0.2, 0.1])

    def evaluate(self):
        self.state.history.append({"step": self.state.step, "minutes": 0, "scenes": next(scores)})
        return {}

    monkeypatch.setattr(training.Training, "evaluate", evaluate)
    (path,) = train("gaussian-2", tmp_path, steps=50, patience=2, checkpoint_minutes=1e-9, **QUICK)
    facts = json.loads(path.with_suffix(".json").read_text())["training"]
    # The second evaluation was the best; two without a better one end it, and one more closes.
    assert facts["steps"] == 2
    assert facts["complete"]
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    assert load_network("gaussian-2")[1]["training"]["complete"]
