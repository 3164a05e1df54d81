"""One training in progress: its data, its networks, a step, an evaluation, and what it writes."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from napari_deblur.nets.weights import save_network
from napari_deblur.train.card import hardware, make_card, mark_complete
from napari_deblur.train.checkpoint import State
from napari_deblur.train.crops import CropSampler, SceneRenewal
from napari_deblur.train.degrade import Batch, Degradation, central_crops, crop_size_px, degrade
from napari_deblur.train.evaluate import figures, held_out, predict
from napari_deblur.train.joint import SHARED_PREFIXES, Networks
from napari_deblur.train.objective import kernel_term, learning_rate, loss_terms
from napari_deblur.train.progress import Progress
from napari_deblur.train.recipes import Recipe, network_config
from napari_deblur.train.start import take_weights
from napari_deblur.train.tiles import SCENE_PX, Pool, micrograph_pool, scene_pool, training_pool
from napari_deblur.train.workers import Workers

_HELD_OUT_SEED = 987_654
_RENEWAL_SEED = 555_555
_CLIP_NORM = 2.0

HeldOut = dict[str, dict[str, list[Batch]]]


class Training(Progress):
    """A recipe at work.

    Parameters
    ----------
    chosen : Recipe
    out_dir : Path
    data_dir : Path or None
        Folder with ``train_micro`` and ``train_natural``.
    device : torch.device
    start_from : str or None
        Id of a network to start from.
    """

    recipe: Recipe

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
        self.settings = Degradation(
            gaussian_noise_high=chosen.gaussian_noise_high,
            shake_share=chosen.shake_share,
            enlarged_share=chosen.enlarged_share,
        )
        torch.manual_seed(chosen.seed)
        networks = Networks([network_config(chosen, model) for model in chosen.models]).to(device)
        networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.start_from = {
            model: take_weights(net, start_from) for model, net in networks.each().items() if start_from
        }
        optimizer = torch.optim.AdamW(
            networks.parameters(),
            lr=chosen.learning_rate,
            weight_decay=chosen.weight_decay,
            fused=device.type == "cuda",
        )
        self.state = State(networks, copy.deepcopy(networks).requires_grad_(False).eval(), optimizer)
        self.patch_px = next(iter(networks.each().values())).patch_px
        self.crop_px = max(crop_size_px(model, self.patch_px) for model in chosen.models)
        self.pool = training_pool(
            self.crop_px,
            data_dir=data_dir,
            n_scenes=chosen.n_scenes,
            seed=chosen.seed,
            micrograph_share=chosen.micrograph_share,
        )
        self.sampler = CropSampler(self.pool, device)
        self.renewal = self._renewal()
        self.held_out = self._held_out(data_dir) if self.workers.leads else {}

    def _renewal(self) -> SceneRenewal | None:
        chosen, workers = self.recipe, self.workers
        if not chosen.new_scenes:
            return None
        processes = max(1, (os.cpu_count() or 2) // (2 * workers.count))
        seed = chosen.seed + _RENEWAL_SEED + workers.rank
        return SceneRenewal(self.sampler, chosen.new_scenes, max(SCENE_PX, self.crop_px), seed, processes)

    def _held_out(self, data_dir: Path | None) -> HeldOut:
        """Return held-out batches by family and set."""
        chosen, crop = self.recipe, self.crop_px
        pools: dict[str, Pool] = {
            "scenes": scene_pool(crop, min(chosen.n_validation, 256), chosen.seed + _HELD_OUT_SEED)
        }
        if data_dir:
            pools["micrographs (validation sources)"] = micrograph_pool(crop, data_dir, "validation")
        return {
            model: {
                name: held_out(
                    pool, model, chosen.n_validation, _HELD_OUT_SEED, self.settings, patch_px=self.patch_px
                )
                for name, pool in pools.items()
            }
            for model in chosen.models
        }

    @property
    def weights(self) -> list[Path]:
        """The weight files that it writes, one per family."""
        return [self.out_dir / f"{model}.safetensors" for model in self.recipe.models]

    def batches(self) -> Iterator[dict[str, Batch]]:
        """Yield degraded batches by family.

        Each step has its own seed, so a resumed training sees the same ones.
        """
        chosen, workers, step = self.recipe, self.workers, self.state.step
        count = max(1, chosen.batch_size // (workers.count * len(chosen.models)))
        while True:
            if self.renewal:
                self.renewal.step(step)
            rng, sampler = self.draws(step)
            batch = {}
            for model in chosen.models:
                crops = central_crops(self.sampler.crops(count, rng), crop_size_px(model, self.patch_px))
                batch[model] = degrade(crops, model, sampler, self.settings)
            yield batch
            step += 1

    def step(self, batch: dict[str, Batch]) -> dict[str, Tensor]:
        """Make one step of the optimiser; return the loss terms, means over families, still on the device."""
        state = self.state
        state.networks.train()
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.fraction)
        with torch.autocast(self.device.type, torch.bfloat16):
            outputs = state.networks({model: part.patches for model, part in batch.items()})
        networks = state.networks.each()
        found = [loss_terms(networks[model], batch[model], output) for model, output in outputs.items()]
        if self.recipe.kernel_weight:
            for terms, (model, output) in zip(found, outputs.items(), strict=True):
                terms["kernel"] = kernel_term(networks[model], batch[model], output[0])
        terms = {name: torch.stack([part[name] for part in found]).mean() for name in found[0]}
        loss = terms["square"] + terms["absolute"] + 0.1 * terms["likelihood"]
        loss = loss + self.recipe.validity_weight * terms["validity"]
        if self.recipe.kernel_weight:
            loss = loss + self.recipe.kernel_weight * terms["kernel"]
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.workers.average_gradients(state.networks.parameters())
        torch.nn.utils.clip_grad_norm_(state.networks.parameters(), _CLIP_NORM)
        state.optimizer.step()
        state.update_average(min(self.recipe.ema, (1 + state.step) / (10 + state.step)))
        state.step += 1
        return {name: term.detach() for name, term in terms.items()}

    def evaluate(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return held-out figures of the averaged weights by family and set, and note the means of one.

        That is R², or the kernels' signal-to-noise ratio where the training is for it.
        """
        networks = self.state.average.each()
        # In the precision of the training: half the time, in which all other processes wait.
        with torch.autocast(self.device.type, torch.bfloat16):
            found = {
                model: {
                    name: figures(networks[model].targets, predict(networks[model], batches))
                    for name, batches in sets.items()
                }
                for model, sets in self.held_out.items()
            }
        names = next(iter(found.values()))
        counts = "psf_snr_db" if self.recipe.kernel_weight else "mean"
        mean = {
            name: round(sum(sets[name][counts] for sets in found.values()) / len(found), 4) for name in names
        }
        self.state.history.append(
            {"step": self.state.step, "minutes": round(self.state.seconds / 60, 2), **mean}
        )
        return found

    def export(self, complete: bool) -> None:
        """Evaluate, and write weights and cards if they are the best so far."""
        scores = self.evaluate()
        if self.stale and all(path.is_file() for path in self.weights):
            if complete:
                for path in self.weights:
                    mark_complete(path)
            return
        chosen, state = self.recipe, self.state
        together = len(chosen.models) > 1
        for model, net in state.average.each().items():
            facts = {
                "complete": complete,
                "steps": state.step,
                "patches": state.step * chosen.batch_size // len(chosen.models),
                "together_with": [other for other in chosen.models if other != model],
                "minutes": round(state.seconds / 60, 1),
                "hardware": hardware(self.device),
                "processes": self.workers.count,
                "precision": "bfloat16 autocast",
                "started_from": self.start_from.get(model),
                "history": state.history,
            }
            card = make_card(net, chosen, self.settings, self.pool, facts, scores.get(model, {}))
            shared = (chosen.id, SHARED_PREFIXES) if together else None
            save_network(net.state_dict(), card, self.out_dir, shared=shared)
