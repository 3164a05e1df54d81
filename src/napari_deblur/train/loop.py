"""Training of identification networks, the same on CPU and CUDA, resumable at any checkpoint."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_deblur.core.errors import CancelledError
from napari_deblur.core.params import declare
from napari_deblur.core.run import Run
from napari_deblur.nets.identification import build
from napari_deblur.nets.weights import save_network
from napari_deblur.train.card import hardware, make_card, mark_complete
from napari_deblur.train.checkpoint import State
from napari_deblur.train.crops import CropSampler, SceneRenewal
from napari_deblur.train.degrade import Batch, Degradation, Sampler, crop_size_px, degrade
from napari_deblur.train.evaluate import figures, held_out, predict
from napari_deblur.train.objective import learning_rate, loss_terms
from napari_deblur.train.recipes import Recipe, network_config, recipe
from napari_deblur.train.start import take_weights
from napari_deblur.train.tiles import SCENE_PX, micrograph_pool, scene_pool, training_pool
from napari_deblur.train.workers import Workers

_HELD_OUT_SEED = 987_654
_RENEWAL_SEED = 555_555
_CLIP_NORM = 2.0
_SHOWN_EVERY = 20


def _batches(training: _Training) -> Iterator[Batch]:
    """Yield degraded batches; each step has its own seed, so a resumed training sees the same ones."""
    chosen, workers, step = training.recipe, training.workers, training.state.step
    while True:
        if training.renewal:
            training.renewal.step(step)
        rng = np.random.default_rng([chosen.seed, step, workers.rank])
        seed = (chosen.seed * 1_000_003 + step) * 64 + workers.rank
        sampler = Sampler(torch.Generator(device=training.device).manual_seed(seed))
        crops = training.sampler.crops(chosen.batch_size // workers.count, rng)
        yield degrade(crops, chosen.id, sampler, training.settings)
        step += 1


def _held_out_sets(
    chosen: Recipe, settings: Degradation, crop: int, data_dir: Path | None
) -> dict[str, list[Batch]]:
    pools = {"scenes": scene_pool(crop, min(chosen.n_validation, 256), chosen.seed + _HELD_OUT_SEED)}
    if data_dir:
        pools["micrographs (validation sources)"] = micrograph_pool(crop, data_dir, "validation")
    count = chosen.n_validation
    return {name: held_out(pool, chosen.id, count, _HELD_OUT_SEED, settings) for name, pool in pools.items()}


class _Training:
    """One training in progress."""

    def __init__(
        self,
        chosen: Recipe,
        out_dir: Path,
        data_dir: Path | None,
        device: torch.device,
        start_from: str | None,
    ) -> None:
        self.recipe, self.out_dir, self.device = chosen, out_dir, device
        self.given_up = False
        self.workers = Workers.from_environment(device)
        self.settings = Degradation()
        self.start_from: dict[str, Any] | None = None
        torch.manual_seed(chosen.seed)
        network = build(network_config(chosen)).to(device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if start_from is not None:
            self.start_from = take_weights(network, start_from)
        optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=chosen.learning_rate,
            weight_decay=chosen.weight_decay,
            fused=device.type == "cuda",
        )
        self.state = State(network, copy.deepcopy(network).requires_grad_(False).eval(), optimizer)
        crop = crop_size_px(chosen.id, network.patch_px)
        self.pool = training_pool(
            crop,
            data_dir=data_dir,
            n_scenes=chosen.n_scenes,
            seed=chosen.seed,
            micrograph_share=chosen.micrograph_share,
        )
        self.sampler = CropSampler(self.pool, device)
        self.renewal = self._renewal(crop)
        self.held_out = _held_out_sets(chosen, self.settings, crop, data_dir) if self.workers.leads else {}

    def _renewal(self, crop: int) -> SceneRenewal | None:
        chosen, workers = self.recipe, self.workers
        if not chosen.new_scenes:
            return None
        processes = max(1, (os.cpu_count() or 2) // (2 * workers.count))
        seed = chosen.seed + _RENEWAL_SEED + workers.rank
        return SceneRenewal(self.sampler, chosen.new_scenes, max(SCENE_PX, crop), seed, processes)

    @property
    def checkpoint(self) -> Path:
        return self.out_dir / f"{self.recipe.id}.checkpoint.pt"

    @property
    def weights(self) -> Path:
        return self.out_dir / f"{self.recipe.id}.safetensors"

    @property
    def fraction(self) -> float:
        """Share of the training that is done, by steps or by time."""
        if self.recipe.steps is not None:
            return self.state.step / self.recipe.steps
        return self.state.seconds / (60 * self.recipe.minutes)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Make one step of the optimiser; return the loss terms, still on the device."""
        state = self.state
        state.network.train()
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.fraction)
        with torch.autocast(self.device.type, torch.bfloat16):
            output = state.network(batch.patches)
        terms = loss_terms(state.network, batch, output)
        loss = terms["square"] + terms["absolute"] + 0.1 * terms["likelihood"]
        loss = loss + self.recipe.validity_weight * terms["validity"]
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.workers.average_gradients(state.network.parameters())
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), _CLIP_NORM)
        state.optimizer.step()
        state.update_average(min(self.recipe.ema, (1 + state.step) / (10 + state.step)))
        state.step += 1
        return {name: term.detach() for name, term in terms.items()}

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Return held-out figures of the averaged weights."""
        found = {
            name: figures(self.state.average.targets, predict(self.state.average, batches))
            for name, batches in self.held_out.items()
        }
        mean = {name: scores["mean"] for name, scores in found.items()}
        self.state.history.append(
            {"step": self.state.step, "minutes": round(self.state.seconds / 60, 2), **mean}
        )
        return found

    def export(self, complete: bool) -> None:
        """Evaluate, and write weights and card if they are the best so far."""
        scores = self.evaluate()
        if self.stale and self.weights.is_file():
            if complete:
                mark_complete(self.weights)
            return
        facts = {
            "complete": complete,
            "steps": self.state.step,
            "patches": self.state.step * self.recipe.batch_size,
            "minutes": round(self.state.seconds / 60, 1),
            "hardware": hardware(self.device),
            "processes": self.workers.count,
            "precision": "bfloat16 autocast",
            "started_from": self.start_from,
            "history": self.state.history,
        }
        card = make_card(self.state.average, self.recipe, self.settings, self.pool, facts, scores)
        save_network(self.state.average.state_dict(), card, self.out_dir)

    @property
    def stale(self) -> int:
        """How many evaluations ago the best one was, by the last held-out set: micrographs, where given."""
        scores = [list(entry.values())[-1] for entry in self.state.history]
        return len(scores) - 1 - scores.index(max(scores)) if scores else 0


def _pick_device(device: str | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(
    recipe_id: str,
    out_dir: str | Path,
    *,
    data_dir: str | Path | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    resume: bool = True,
    run: Run | None = None,
    device: str | None = None,
    start_from: str | None = None,
    **changes: Any,
) -> Path:
    """Train the network of a recipe and write its weights and card.

    Parameters
    ----------
    recipe_id : str
        ``gaussian-2`` or ``zernike-3``.
    out_dir : path
        Weights, card and checkpoint go here; weights are renewed at every checkpoint.
    data_dir : path, optional
        Folder with ``train_micro`` and ``train_natural``; without it procedural scenes alone are used.
    minutes, steps : optional
        Length of the training, instead of the recipe's.
    resume : bool
        Go on from the checkpoint in ``out_dir``, if there is one.
    run : Run, optional
        Progress and cancellation; a cancel leaves a checkpoint.
    device : str, optional
        CUDA where there is one, else the CPU.
    start_from : str, optional
        Id of a network to start from: its branches, and of its heads what regresses the same quantities.
    **changes
        Other fields of the recipe.

    Returns
    -------
    Path
        The weight file.

    Raises
    ------
    UnknownNameError, InvalidInputError, CancelledError
    """
    run = run or Run()
    given = {"minutes": minutes, "steps": steps, **changes}
    base = recipe(recipe_id)
    wanted = {name: value for name, value in given.items() if value is not None}
    chosen = declare(Recipe, {**base.model_dump(), **wanted})
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    run.step(0, 1, "preparing scenes and held-out patches")
    training = _Training(
        chosen, folder, Path(data_dir) if data_dir else None, _pick_device(device), start_from
    )
    if resume and training.checkpoint.is_file():
        training.state.load(training.checkpoint, training.device)
    return _loop(training, run)


def _loop(training: _Training, run: Run) -> Path:
    state, chosen = training.state, training.recipe
    clock, saved = time.monotonic() - state.seconds, state.seconds
    smooth: dict[str, Tensor] = {}
    shown = ""
    batches = _batches(training)
    try:
        while training.fraction < 1 and not training.given_up:
            for name, term in training.step(next(batches)).items():
                smooth[name] = term if name not in smooth else torch.lerp(smooth[name], term, 0.02)
            found = (time.monotonic() - clock, float(0 < chosen.patience <= training.stale))
            state.seconds, given_up = training.workers.agree(found, training.device)
            training.given_up = bool(given_up)
            if training.workers.leads and state.seconds - saved > 60 * chosen.checkpoint_minutes:
                saved = state.seconds
                state.save(training.checkpoint)
                training.export(complete=False)
            if not shown or state.step % _SHOWN_EVERY == 0:
                # To read a number makes the CPU wait for the GPU.
                shown = " ".join(f"{name} {float(term):.3f}" for name, term in smooth.items())
            run.step(min(int(1e4 * training.fraction), 10_000), 10_000, f"step {state.step}: {shown}")
    except CancelledError:
        if training.workers.leads:
            state.save(training.checkpoint)
        raise
    finally:
        if training.renewal:
            training.renewal.close()
    if training.workers.leads:
        state.save(training.checkpoint)
        training.export(complete=True)
        run.fact("history", state.history)
    return training.weights
