"""Training of Deep-Blur's deblurring network, the same on CPU and CUDA, resumable at any checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from napari_deblur.core.run import Run
from napari_deblur.nets.proximal import COMPACT, FULL
from napari_deblur.nets.unrolled import UnrolledDouglasRachford, default_config
from napari_deblur.train.checkpoint import State
from napari_deblur.train.crops import CropSampler
from napari_deblur.train.loop import start
from napari_deblur.train.progress import OneNetwork
from napari_deblur.train.restoration_card import HeldOut, figures, held_out, make_card
from napari_deblur.train.restoration_data import OBJECT_PX, Degraded, draw, kind_of
from napari_deblur.train.restoration_recipe import RestorationRecipe
from napari_deblur.train.schedule import annealed
from napari_deblur.train.tiles import micrograph_pool, scene_pool, training_pool
from napari_deblur.train.workers import Workers

_HELD_OUT_SEED = 246_813
_CLIP_NORM = 1.0
_EARLIER_STEPS_WEIGHT = 0.15
_LEAST_CONTRAST = 0.05
_LAST_RATE = 0.01
# A logarithm has further to go than a convolution's weight.
_FEW_FACTOR = 10.0


def network_config(chosen: RestorationRecipe) -> dict[str, Any]:
    """Return the architecture that a recipe trains."""
    proximal = COMPACT if chosen.size == "compact" else FULL
    return {**default_config(), "proximal": dict(proximal), "shared": chosen.proximal == "shared"}


def loss_of(images: list[Tensor], batch: Degraded) -> Tensor:
    """Return the mean absolute error of the last image relative to the contrast, and a little of the others'.

    Only the field of view counts; the frame around it is seen by nobody.
    """
    crop = batch.blur.crop
    sharp = crop(batch.sharp)
    contrast = sharp.std(dim=(-2, -1)) + _LEAST_CONTRAST
    errors = [((crop(image) - sharp).abs().mean(dim=(-2, -1)) / contrast).mean() for image in images]
    others = errors[:-1]
    return errors[-1] + (_EARLIER_STEPS_WEIGHT * sum(others) / len(others) if others else 0.0)


class RestorationTraining(OneNetwork):
    """The recipe at work; see `train.loop` for what runs it.

    Parameters
    ----------
    chosen : RestorationRecipe
    out_dir : Path
    data_dir : Path or None
        Folder with ``train_micro`` and ``train_natural``.
    device : torch.device
    """

    recipe: RestorationRecipe
    average: UnrolledDouglasRachford

    renewal = None

    def __init__(
        self, chosen: RestorationRecipe, out_dir: Path, data_dir: Path | None, device: torch.device
    ) -> None:
        self.recipe, self.out_dir, self.device, self.given_up = chosen, out_dir, device, False
        self.workers = Workers.from_environment(device)
        torch.manual_seed(chosen.seed)
        network = UnrolledDouglasRachford(network_config(chosen)).to(device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        few = [network.log_lambda, network.lambda_power, network.log_noise]
        groups = [
            {"params": list(network.proximal.parameters()), "factor": 1.0},
            {"params": few, "factor": _FEW_FACTOR},
        ]
        optimizer = torch.optim.Adam(groups, lr=chosen.learning_rate, fused=device.type == "cuda")
        average = copy.deepcopy(network).requires_grad_(False).eval()
        self.network, self.average = network, average
        self.state = State(cast("Any", network), cast("Any", average), optimizer)
        self.pool = training_pool(
            OBJECT_PX,
            data_dir=data_dir,
            n_scenes=chosen.n_scenes,
            seed=chosen.seed,
            micrograph_share=chosen.micrograph_share,
        )
        self.sampler = CropSampler(self.pool, device)
        self.held_out = self._held_out(data_dir) if self.workers.leads else {}

    def _held_out(self, data_dir: Path | None) -> HeldOut:
        pools = {"scenes": scene_pool(OBJECT_PX, 64, self.recipe.seed + _HELD_OUT_SEED)}
        if data_dir:
            pools["micrographs (validation sources)"] = micrograph_pool(OBJECT_PX, data_dir, "validation")
        count = self.recipe.n_validation
        return {name: held_out(pool, count, _HELD_OUT_SEED, self.device) for name, pool in pools.items()}

    def batches(self) -> Iterator[Degraded]:
        """Yield degraded batches; each step has its own seed, so a resumed training sees the same ones."""
        chosen, workers, step = self.recipe, self.workers, self.state.step
        count = max(1, chosen.batch_size // workers.count)
        while True:
            rng, sampler = self.draws(step)
            crops = self.sampler.crops(count, rng)
            yield draw(crops, kind_of(rng), rng, sampler)
            step += 1

    def step(self, batch: Degraded) -> dict[str, Tensor]:
        """Make one step of the optimiser; return the loss, still on the device."""
        state, chosen = self.state, self.recipe
        for group in state.optimizer.param_groups:
            group["lr"] = self._rate() * group["factor"]
        first = self.fraction < chosen.first_stage
        images = self.network(batch.y, batch.blur, batch.seen, steps=1 if first else None, half=True)
        loss = loss_of(images, batch)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for parameter in self.network.parameters():
            # The steps that the first stage leaves out have none, and processes exchange all of them.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.workers.average_gradients(self.network.parameters())
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP_NORM)
        state.optimizer.step()
        if first:
            with torch.no_grad():
                # The later steps begin with what the first one has learned to be told of the noise.
                self.network.log_noise[1:] = self.network.log_noise[0]
        state.update_average(min(chosen.ema, (1 + state.step) / (10 + state.step)))
        state.step += 1
        return {"relative error": loss.detach()}

    def _rate(self) -> float:
        """Return the learning rate: it rises over the warm-up, then falls as a cosine."""
        chosen = self.recipe
        return chosen.learning_rate * annealed(self.fraction, chosen.warm_up, first=1e-4, last=_LAST_RATE)

    def evaluate(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return held-out figures of the averaged weights by set and noise level, and note their means."""
        found = {name: figures(self.average, levels) for name, levels in self.held_out.items()}
        means = {
            name: round(float(np.mean([level["deep_blur_ssim"] for level in levels.values()])), 5)
            for name, levels in found.items()
        }
        self.state.history.append(
            {"step": self.state.step, "minutes": round(self.state.seconds / 60, 2), **means}
        )
        return found

    def card(self) -> dict[str, Any]:
        """Return the card without its sha256 and its held-out figures."""
        return make_card(self.average, self.recipe, self.pool, self.state, self.device, self.workers.count)


def train_restoration(
    out_dir: str | Path,
    *,
    data_dir: str | Path | None = None,
    resume: bool = True,
    run: Run | None = None,
    device: str | None = None,
    **changes: Any,
) -> list[Path]:
    """Train the deblurring network and write its weights and card.

    Parameters
    ----------
    out_dir : path
        Weights, card and checkpoint go here.
    data_dir : path, optional
        Folder with ``train_micro`` and ``train_natural``; without it procedural scenes alone are used.
    resume : bool
        Go on from the checkpoint in ``out_dir``, if there is one.
    run : Run, optional
        Progress and cancellation; a cancel leaves a checkpoint.
    device : str, optional
        CUDA where there is one, else the CPU.
    **changes
        Fields of the recipe.

    Returns
    -------
    list of Path
        The weight file.

    Raises
    ------
    InvalidInputError, WeightsError, CancelledError
    """
    run = run or Run()
    chosen = RestorationRecipe(**{name: value for name, value in changes.items() if value is not None})
    run.step(0, 1, "preparing scenes and held-out crops")
    return start(RestorationTraining, chosen, out_dir, data_dir, resume=resume, run=run, device=device)
