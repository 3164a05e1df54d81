"""Held-out figures of networks with a deformable latent space beside classical methods, and their cards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_deblur.blur.convolution import Convolution
from napari_deblur.core.record import versions
from napari_deblur.core.run import Run
from napari_deblur.methods.base import Method
from napari_deblur.methods.richardson_lucy import TVRichardsonLucy
from napari_deblur.methods.wiener import Wiener
from napari_deblur.nets.deformable import (
    NOISE_RANGE,
    REFERENCES,
    DeformableNet,
    Scale,
    padded_to_step,
    restore,
)
from napari_deblur.optics.probes import ZonePlate
from napari_deblur.optics.psf import family
from napari_deblur.quality import psnr_db, ssim
from napari_deblur.train.card import crops_facts
from napari_deblur.train.checkpoint import State
from napari_deblur.train.deformation_data import (
    HELD_OUT_PHOTOGRAPHS,
    NOISE,
    Case,
    cases,
    degraded,
    fixed_crops,
)
from napari_deblur.train.deformation_recipe import DeformationRecipe
from napari_deblur.train.tiles import TEST_SOURCES, VALIDATION_SOURCES, Pool


@dataclass(frozen=True)
class HeldOut:
    """Degraded images of one case, and what classical methods make of them.

    Attributes
    ----------
    case : Case
    images, sharp : Tensor, shape (n, h, w)
    classical : dict of float
    """

    case: Case
    images: Tensor
    sharp: Tensor
    classical: dict[str, float]


def held_out(pool: Pool, model: str, count: int, seed: int) -> list[HeldOut]:
    """Return the held-out cases of a family on images of a pool."""
    found = []
    crops = fixed_crops(pool, count, seed)
    for case in cases(model):
        images, sharp, kernel = degraded(crops, case, model, seed)
        found.append(HeldOut(case, images, sharp, _classical(images, sharp, kernel)))
    return found


def scores(images: NDArray[Any] | Tensor, sharp: NDArray[Any] | Tensor) -> dict[str, float]:
    """Return mean PSNR (range 1) and SSIM of images (n, h, w)."""
    pairs = [(np.asarray(one), np.asarray(true)) for one, true in zip(images, sharp, strict=True)]
    return {
        "psnr_db": float(np.mean([psnr_db(one, true, 1.0) for one, true in pairs])),
        "ssim": float(np.mean([ssim(one, true, 1.0) for one, true in pairs])),
    }


def _classical(images: Tensor, sharp: Tensor, kernel: Tensor) -> dict[str, float]:
    methods: dict[str, Method | None] = {
        "blurred": None,
        "wiener": Wiener(),
        "tv_richardson_lucy": TVRichardsonLucy(),
    }
    found: dict[str, float] = {}
    for name, method in methods.items():
        made = images if method is None else torch.stack([_solved(method, y, kernel) for y in images])
        found |= {f"{name}_{key}": value for key, value in scores(made, sharp).items()}
    return found


def _solved(method: Method, y: Tensor, kernel: Tensor) -> Tensor:
    blur = Convolution(kernel, tuple(y.shape))
    given = y.clamp_min(0) if method.non_negative else y
    return blur.crop(method.solve(given, blur, Run()))


@torch.no_grad()
def restored(network: DeformableNet, images: Tensor, parameters: tuple[float, ...]) -> Tensor:
    """Return what the network makes of images (n, h, w), each by its own mean and contrast."""
    device = next(network.parameters()).device
    made = []
    for y in images.to(device):
        scale = Scale.of(y)
        latent = network.encode(padded_to_step((y - scale.mean) / scale.spread)[None])
        made.append(restore(network, latent, parameters, scale)[: y.shape[0], : y.shape[1]].clamp_min(0))
    return torch.stack(made).float().cpu()


def figures(network: DeformableNet, held: list[HeldOut]) -> dict[str, dict[str, float]]:
    """Return mean PSNR and SSIM of the network, beside the classical methods', by case."""
    found = {}
    for part in held:
        own = scores(restored(network, part.images, part.case.parameters), part.sharp)
        both = {f"network_{key}": value for key, value in own.items()} | part.classical
        found[part.case.name] = {key: round(value, 4) for key, value in both.items()}
    return found


def make_card(
    network: DeformableNet,
    recipe: DeformationRecipe,
    pool: Pool,
    state: State,
    device: torch.device,
    processes: int,
) -> dict[str, Any]:
    """Return the card without its sha256 and its held-out figures."""
    model = family(network.model)
    return {
        "id": recipe.id,
        "title": f"Deformable latent space, {model.title.lower()}",
        "task": "latent-deformation",
        "licence": "BSD-3-Clause",
        "config": network.config,
        # It reads no parameters from images; these it is told.
        "parameter_names": [],
        "parameter_ranges": {},
        "family": model.id,
        "told": {
            name: {"range": list(model.parameter_ranges[name]), "unit": unit}
            for name, unit in zip(model.parameter_names, model.parameter_units, strict=True)
        },
        "cutoff_cycles_per_px": model.default_cutoff_cycles_per_px if model.needs_cutoff else None,
        "optics": ZonePlate().model_dump() if model.id == "zone-plate" else None,
        "reference": list(REFERENCES[model.id]),
        "noise_to_contrast": [max(NOISE[model.id][0], NOISE_RANGE[0]), NOISE[model.id][1]],
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "recipe": recipe.model_dump(),
        "data": {
            "groups": {name: len(images) for name, images in pool.images.items()},
            "held_out_for_validation": [*VALIDATION_SOURCES, HELD_OUT_PHOTOGRAPHS["validation"]],
            "held_out_for_test": [*TEST_SOURCES, HELD_OUT_PHOTOGRAPHS["test"]],
        },
        "training": crops_facts(recipe, state, device, processes, "bfloat16 autocast"),
        "versions": versions(),
    }
