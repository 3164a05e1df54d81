"""Training of networks with a deformable latent space, the same on CPU and CUDA, resumable at any checkpoint.

As published (Guan et al. 2022, §3.3 and §3.4) encoder and decoder first learn to restore images of the
reference kernel, which makes the reference latent space. Then they stay as they are, and the deformer learns
to bring the features of any other kernel's image there; its bases and its coefficients' networks take turns,
batch by batch. Beyond the publication the decoded image counts too, and a last stage adjusts all parts
together.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from napari_deblur.core.errors import UnknownNameError
from napari_deblur.core.run import Run
from napari_deblur.nets.deformable import DeformableNet, default_config
from napari_deblur.nets.deformers import Deformer
from napari_deblur.optics.psf import family
from napari_deblur.train.checkpoint import State
from napari_deblur.train.crops import CropSampler
from napari_deblur.train.deformation_card import HeldOut, figures, held_out, make_card
from napari_deblur.train.deformation_data import (
    PATCH_PX,
    Batch,
    KernelBank,
    deformation_pool,
    draw,
    held_out_pools,
)
from napari_deblur.train.deformation_recipe import RECIPES, DeformationRecipe
from napari_deblur.train.loop import start
from napari_deblur.train.progress import OneNetwork
from napari_deblur.train.schedule import annealed
from napari_deblur.train.workers import Workers

_GROUPS = 4
_HELD_OUT_SEED = 13_579
_BANK_COUNT = 1024
_CLIP_NORM = 1.0
_JOINT_RATE = 0.6
_LAST_RATE = 0.02
_ABSOLUTE_SHARE = 0.2


def network_config(chosen: DeformationRecipe) -> dict[str, Any]:
    """Return the architecture that a recipe trains."""
    complete = chosen.deformer == "complete"
    config = default_config(chosen.model) | {
        "deformer": chosen.deformer,
        "prefilter": complete,
        "normalisation": chosen.normalisation,
    }
    if chosen.size == "full":
        # 17 MB in fp16: for a folder of one's own.
        config |= {"channels": 96, "n_basis": 8, "outer_channels": 64, "encoder_blocks": 2}
    return config


def image_loss(made: Tensor, sharp: Tensor) -> Tensor:
    """Return mean squared error, and a little of the mean absolute one, which keeps faint detail in sight.

    Images whose sharp content is far stronger than its blur shows, points above all, count relative to it.
    """
    error = (made.float() - sharp) / sharp.std(dim=(1, 2), keepdim=True).clamp_min(1)
    return error.square().mean() + _ABSOLUTE_SHARE * error.abs().mean()


class DeformationTraining(OneNetwork):
    """The recipe at work; see `train.loop` for what runs it.

    Parameters
    ----------
    chosen : DeformationRecipe
    out_dir : Path
    data_dir : Path or None
        Folder with ``train_micro`` and ``train_natural``.
    device : torch.device
    """

    recipe: DeformationRecipe
    average: DeformableNet

    renewal = None

    def __init__(
        self, chosen: DeformationRecipe, out_dir: Path, data_dir: Path | None, device: torch.device
    ) -> None:
        self.recipe, self.out_dir, self.device, self.given_up = chosen, out_dir, device, False
        self.workers = Workers.from_environment(device)
        torch.manual_seed(chosen.seed)
        network = _channels_last(DeformableNet(network_config(chosen)).to(device))
        average = copy.deepcopy(network).requires_grad_(False).eval()
        self.network, self.average = network, average
        optimizer = torch.optim.Adam(
            network.parameters(), lr=chosen.learning_rate, fused=device.type == "cuda"
        )
        self.state = State(cast("Any", network), cast("Any", average), optimizer)
        self.bank = KernelBank(chosen.model, _BANK_COUNT, chosen.seed, device)
        crop = PATCH_PX + family(chosen.model).size_px() - 1
        self.pool = deformation_pool(
            crop,
            model=chosen.model,
            data_dir=data_dir,
            n_scenes=chosen.n_scenes,
            seed=chosen.seed,
            micrograph_share=chosen.micrograph_share,
        )
        self.sampler = CropSampler(self.pool, device)
        self.held_out = self._held_out(crop + 32, data_dir) if self.workers.leads else {}
        # Kept there because checkpoints hold the optimiser's settings.
        optimizer.param_groups[0]["stage"] = ""

    def _held_out(self, crop: int, data_dir: Path | None) -> dict[str, list[HeldOut]]:
        pools = held_out_pools(crop, data_dir, "validation", self.recipe.seed + _HELD_OUT_SEED)
        count = self.recipe.n_validation
        return {
            name: held_out(pool, self.recipe.model, count, _HELD_OUT_SEED) for name, pool in pools.items()
        }

    def batches(self) -> Iterator[Batch]:
        """Yield degraded batches; each step has its own seed, so a resumed training sees the same ones."""
        chosen, workers, step = self.recipe, self.workers, self.state.step
        groups = max(1, min(_GROUPS, chosen.batch_size // workers.count))
        if self.device.type == "cuda":
            groups = max(groups, chosen.batch_size // workers.count // 16)
        each = max(1, chosen.batch_size // workers.count // groups)
        while True:
            rng, sampler = self.draws(step)
            crops = self.sampler.crops(groups * each, rng)
            reference = chosen.stage(self.fraction) == "latent"
            yield draw(crops, self.bank, groups, sampler, reference=reference)
            step += 1

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Make one step of the optimiser; return the losses, still on the device."""
        state = self.state
        stage = self._enter(self.recipe.stage(self.fraction))
        self._choose_parameters(stage)
        for group in state.optimizer.param_groups:
            group["lr"] = self._rate(stage)
        with torch.autocast(self.device.type, torch.bfloat16):
            terms = self._losses(stage, batch)
        loss = torch.stack([self._weight(name) * term for name, term in terms.items()]).sum()
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.workers.average_gradients(self.network.parameters())
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP_NORM)
        state.optimizer.step()
        state.update_average(min(self.recipe.ema, (1 + state.step) / (10 + state.step)))
        state.step += 1
        return {name: term.detach() for name, term in terms.items()}

    def _enter(self, stage: str) -> str:
        """Go on from the averaged weights where a new stage begins."""
        settings = self.state.optimizer.param_groups[0]
        if settings["stage"] not in ("", stage):
            self.network.load_state_dict(self.average.state_dict())
        settings["stage"] = stage
        return stage

    def _losses(self, stage: str, batch: Batch) -> dict[str, Tensor]:
        net = self.network
        if stage == "latent":
            made = net.decode(net.encode(batch.images))
            return {"image": image_loss(made, batch.sharp)}
        if stage == "joint":
            return {"image": image_loss(net(batch.images, batch.conditions), batch.sharp)}
        with torch.no_grad():
            latent, wanted = net.encode(batch.images), net.encode(batch.reference).float()
        moved = net.deform(latent, batch.conditions)
        variance = wanted.var(dim=(0, 2, 3), keepdim=True).clamp_min(1e-6)
        distance = ((moved.float() - wanted).square() / variance).mean()
        return {"image": image_loss(net.decode(moved), batch.sharp), "latent": distance}

    def _weight(self, name: str) -> float:
        return self.recipe.latent_weight if name == "latent" else 1.0

    def _choose_parameters(self, stage: str) -> None:
        """Let those parameters learn whose turn it is."""
        net, deformer = self.network, self.network.deformer
        net.requires_grad_(stage == "joint")
        if stage == "latent":
            net.encoder.requires_grad_(True)
            net.decoder.requires_grad_(True)
        elif stage == "deformer" and isinstance(deformer, Deformer):
            turn = deformer.coefficients if self.state.step % 2 else deformer.blocks
            turn.requires_grad_(True)
            if net.prefilter is not None:
                net.prefilter.requires_grad_(True)
        elif stage == "deformer":
            deformer.requires_grad_(True)

    def _rate(self, stage: str) -> float:
        """Return the learning rate: in every stage it rises, then falls as a cosine."""
        chosen, done = self.recipe, self.recipe.stage_fraction(self.fraction)
        highest = chosen.learning_rate * (_JOINT_RATE if stage == "joint" else 1.0)
        return highest * annealed(done, chosen.warm_up, first=1e-3, last=_LAST_RATE)

    def evaluate(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return held-out figures of the averaged weights by set and case, and note their means."""
        found = {name: figures(self.average, held) for name, held in self.held_out.items()}
        means = {
            f"{name}, psnr_db": round(float(np.mean([case["network_psnr_db"] for case in sets.values()])), 4)
            for name, sets in found.items()
        }
        stage = {"stage": self.recipe.stage(min(self.fraction, 1.0))}
        minutes = round(self.state.seconds / 60, 2)
        self.state.history.append({"step": self.state.step, "minutes": minutes, **stage, **means})
        return found

    def card(self) -> dict[str, Any]:
        """Return the card without its sha256 and its held-out figures."""
        return make_card(self.average, self.recipe, self.pool, self.state, self.device, self.workers.count)


def _channels_last(network: DeformableNet) -> DeformableNet:
    """Lay the plain convolutions out for speed; bases of filters have five axes and stay as they are."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def train_deformation(
    id: str,
    out_dir: str | Path,
    *,
    data_dir: str | Path | None = None,
    resume: bool = True,
    run: Run | None = None,
    device: str | None = None,
    **changes: Any,
) -> list[Path]:
    """Train a network with a deformable latent space and write its weights and card.

    Parameters
    ----------
    id : str
        One of `deformation_recipe.MODELS`.
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
    UnknownNameError, InvalidInputError, WeightsError, CancelledError
    """
    run = run or Run()
    if id not in RECIPES:
        raise UnknownNameError("recipe", id, list(RECIPES))
    given = {name: value for name, value in changes.items() if value is not None}
    chosen = DeformationRecipe(**{**RECIPES[id].model_dump(), **given})
    run.step(0, 1, "preparing scenes and held-out crops")
    return start(DeformationTraining, chosen, out_dir, data_dir, resume=resume, run=run, device=device)
