"""Training of networks with a deformable latent space: stages, turns, resuming, and what is written."""

import json

import numpy as np
import pytest
import torch

from napari_deblur.core.errors import CancelledError, UnknownNameError, WeightsError
from napari_deblur.core.run import Run
from napari_deblur.nets.deformable import REFERENCES
from napari_deblur.nets.weights import WEIGHTS_VARIABLE, load_network
from napari_deblur.optics.probes import PUBLISHED_DEFOCUS_UM
from napari_deblur.optics.psf import family
from napari_deblur.train import deformation
from napari_deblur.train.deformation import DeformationTraining, train_deformation
from napari_deblur.train.deformation_data import (
    PUBLISHED_VARIANCE,
    Case,
    KernelBank,
    cases,
    degraded,
    draw,
)
from napari_deblur.train.deformation_recipe import MODELS, RECIPES, DeformationRecipe
from napari_deblur.train.degrade import Sampler

ZONE_PLATE = "latent-deformation-zone-plate"
TINY = {"channels": 16, "n_basis": 2, "outer_channels": 8, "hidden": 8, "decoder_blocks": 1}
SHORT = {"steps": 10, "batch_size": 4, "n_scenes": 6, "n_validation": 2}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    full = deformation.network_config
    monkeypatch.setattr(deformation, "network_config", lambda chosen: full(chosen) | TINY)
    monkeypatch.setattr(deformation, "_BANK_COUNT", 16)
    monkeypatch.setattr(deformation, "PATCH_PX", 40)


def recipe(id=ZONE_PLATE, **changes):
    return DeformationRecipe(**{**RECIPES[id].model_dump(), **SHORT, **changes})


@pytest.fixture
def training(tmp_path):
    return DeformationTraining(recipe(), tmp_path, None, torch.device("cpu"))


def sampler(seed=0):
    return Sampler(torch.Generator().manual_seed(seed))


def test_stages_follow_each_other():
    chosen = RECIPES[ZONE_PLATE]
    assert [chosen.stage(done) for done in (0, 0.19, 0.21, 0.49, 0.51, 1.0)] == [
        *("latent",) * 2,
        *("deformer",) * 2,
        *("joint",) * 2,
    ]
    assert chosen.stage_fraction(0.0) == 0
    assert chosen.stage_fraction(0.199) == pytest.approx(1, abs=0.01)
    assert chosen.stage_fraction(0.2) == 0
    published = recipe(joint_share=0.0)
    assert published.stage(0.99) == "deformer"
    assert published.stage_fraction(0.6) == pytest.approx(0.5)
    assert recipe(deformer="none").stage(0.9) == "latent"


def test_bases_and_coefficients_take_turns_while_the_rest_stands_still(training):
    parts = {
        "encoder": training.network.encoder,
        "decoder": training.network.decoder,
        "bases": training.network.deformer.blocks,
        "coefficients": training.network.deformer.coefficients,
    }

    def moved(step):
        training._enter(training.recipe.stage(step / SHORT["steps"]))
        before = {name: [p.clone() for p in part.parameters()] for name, part in parts.items()}
        training.state.step = step
        training.step(next(training.batches()))
        return {
            name
            for name, part in parts.items()
            if any(not torch.equal(a, b) for a, b in zip(before[name], part.parameters(), strict=True))
        }

    assert moved(1) == {"encoder", "decoder"}
    assert moved(2) == {"bases"}
    assert moved(3) == {"coefficients"}
    assert moved(7) == set(parts)


def test_batches_have_a_kernel_per_group_and_the_reference_first(training):
    batch = next(training.batches())
    assert batch.images.shape == batch.sharp.shape == batch.reference.shape == (4, 40, 40)
    assert training.bank.parameters[0].tolist() == list(REFERENCES["zone-plate"])
    training.state.step = 4
    other = next(training.batches())
    assert len({tuple(row) for row in other.conditions.tolist()}) == len(other.conditions)
    again = next(training.batches())
    torch.testing.assert_close(other.images, again.images)


@pytest.mark.parametrize("model", list(MODELS.values()))
def test_degraded_crops_are_the_sharp_ones_blurred(model):
    bank = KernelBank(model, 8, 0, torch.device("cpu"))
    size = bank.kernels.shape[-1]
    flat = torch.zeros(8, 40 + size - 1, 40 + size - 1)
    flat[:, ::7, ::5] = 1.0
    batch = draw(flat, bank, 4, sampler())
    assert batch.conditions.shape[0] == 4
    assert torch.isfinite(batch.images).all()
    # Blur and noise keep the mean, whatever they are normalised by.
    difference = (batch.images.mean(dim=(1, 2)) - batch.sharp.mean(dim=(1, 2))).abs()
    assert float(difference.median()) < 0.1
    assert (batch.sharp.std(dim=(1, 2)) > 0.9 * batch.reference.std(dim=(1, 2))).float().mean() > 0.4


def test_the_published_cases_have_the_published_noise():
    published = cases("zone-plate")
    assert [case.parameters[0] for case in published] == list(PUBLISHED_DEFOCUS_UM)
    grey = torch.full((2, 192, 192), 0.5)
    images, sharp, kernel = degraded(grey, published[0], "zone-plate", 0)
    assert float((images - sharp).var()) == pytest.approx(PUBLISHED_VARIANCE, rel=0.05)
    assert kernel.shape == (65, 65)
    with_detail = torch.rand(1, 96, 96)
    blurred, _, kernel = degraded(with_detail, Case((0.3,), 0.0), "zernike-1", 0)
    centre = (with_detail[0, :65, :65] * kernel.flip(0, 1)).sum()
    assert float(blurred[0, 0, 0]) == pytest.approx(float(centre), abs=1e-4)


@pytest.mark.parametrize("id", list(MODELS))
def test_a_short_training_writes_weights_and_an_honest_card(id, tmp_path, monkeypatch):
    (path,) = train_deformation(id, tmp_path, **SHORT)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    network, card = load_network(id)
    chosen = family(MODELS[id])
    assert network.model == chosen.id == card["family"]
    assert set(card["told"]) == set(chosen.parameter_names)
    assert card["parameter_names"] == [], "it reads nothing from images"
    assert card["training"]["complete"]
    assert card["training"]["steps"] == 10
    assert card["recipe"]["seed"] == 0
    held = card["held_out"]["scenes"]
    assert set(held) == {case.name for case in cases(chosen.id)}
    for figures in held.values():
        assert {"network_psnr_db", "network_ssim", "wiener_psnr_db", "tv_richardson_lucy_ssim"} <= set(
            figures
        )
    assert path.stat().st_size < 3e6


def test_training_goes_on_where_it_was_stopped(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_deformation(ZONE_PLATE, whole, **SHORT)
    run = Run()
    run.on_progress = lambda progress: run.cancel() if "step 3" in progress.message else None
    with pytest.raises(CancelledError):
        train_deformation(ZONE_PLATE, parts, run=run, **SHORT)
    assert (parts / f"{ZONE_PLATE}.checkpoint.pt").is_file()
    train_deformation(ZONE_PLATE, parts, **SHORT)
    states = [
        torch.load(folder / f"{ZONE_PLATE}.checkpoint.pt", weights_only=True)["networks"]
        for folder in (whole, parts)
    ]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, msg=name)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    train_deformation(ZONE_PLATE, tmp_path, **SHORT)
    with pytest.raises(WeightsError, match="does not fit this recipe"):
        train_deformation(ZONE_PLATE, tmp_path, deformer="simple", **SHORT)
    with pytest.raises(UnknownNameError, match="recipe must be one of"):
        train_deformation("latent-deformation-coma", tmp_path)


def test_ablations_train(tmp_path):
    for deformer in ("simple", "none"):
        (path,) = train_deformation(ZONE_PLATE, tmp_path / deformer, deformer=deformer, **SHORT)
        config = json.loads(path.with_suffix(".json").read_text())["config"]
        assert config["deformer"] == deformer
        assert config["prefilter"] is False, "an ablation must not get the PSF by another way"


def test_the_recipe_decides_how_coefficients_are_normalised():
    assert deformation.network_config(recipe(normalisation="softmax"))["normalisation"] == "softmax"
    assert deformation.network_config(recipe())["normalisation"] == "l2"


def test_the_loss_falls(tmp_path):
    training = DeformationTraining(
        recipe(steps=10_000, deformer="none", learning_rate=3e-3, warm_up=0.0),
        tmp_path,
        None,
        torch.device("cpu"),
    )
    batches = training.batches()
    losses = [float(training.step(next(batches))["image"]) for _ in range(60)]
    assert np.mean(losses[-15:]) < 0.7 * np.mean(losses[:5])
