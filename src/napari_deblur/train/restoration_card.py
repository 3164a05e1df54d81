"""Held-out figures of Deep-Blur's deblurring network beside classical methods, and its card."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from napari_deblur.blur.convolution import Convolution
from napari_deblur.core.record import versions
from napari_deblur.core.run import Run
from napari_deblur.methods.base import Method
from napari_deblur.methods.richardson_lucy import TVRichardsonLucy
from napari_deblur.methods.wiener import Wiener
from napari_deblur.nets.unrolled import UnrolledDouglasRachford
from napari_deblur.quality import snr_db, ssim
from napari_deblur.train.card import crops_facts
from napari_deblur.train.checkpoint import State
from napari_deblur.train.degrade import Sampler
from napari_deblur.train.restoration_data import (
    CUTOFFS,
    HAZE,
    KINDS,
    OBJECT_PX,
    PHOTONS,
    READ_NOISE,
    Degraded,
    draw,
    radius_range,
)
from napari_deblur.train.restoration_recipe import RestorationRecipe
from napari_deblur.train.tiles import TEST_SOURCES, VALIDATION_SOURCES, Pool

LEVELS = {"clean": 0.001, "sigma 0.06": 0.06, "sigma 0.10": 0.10}
"""Standard deviations of Gaussian noise, for images in 0 to 1, as in the paper's tables."""
_PRECISION = "bfloat16 autocast for the proximal network, float32 for the rest"
_KIND = "zernike-7"
_BATCH = 16

HeldOut = dict[str, dict[str, list[tuple[Degraded, dict[str, float]]]]]
Level = dict[str, list[tuple[Degraded, dict[str, float]]]]


def held_out(pool: Pool, count: int, seed: int, device: torch.device) -> Level:
    """Return degraded batches by noise level, each with what classical methods make of it.

    The kernels that all of them are given are estimates, as in training.
    """
    found: Level = {}
    for name, sigma in LEVELS.items():
        rng = np.random.default_rng(seed)
        sampler = Sampler(torch.Generator(device=device).manual_seed(seed))
        batches = []
        for start in range(0, count, _BATCH):
            crops = torch.from_numpy(pool.crops(min(_BATCH, count - start), rng)).to(device)
            batch = draw(crops, _KIND, rng, sampler, photons=float("inf"), read_noise=sigma)
            batches.append((batch, _classical(batch)))
        found[name] = batches
    return found


def _classical(batch: Degraded) -> dict[str, float]:
    """Return mean SNR and SSIM of the images themselves, of Wiener and of TV-Richardson-Lucy."""
    methods: dict[str, Method | None] = {
        "blurred": None,
        "wiener": Wiener(),
        "tv_richardson_lucy": TVRichardsonLucy(),
    }
    totals: dict[str, list[float]] = {}
    sharp = batch.blur.crop(batch.sharp)
    for index, y in enumerate(batch.y.cpu()):
        for name, method in methods.items():
            image = y
            if method is not None:
                blur = Convolution(batch.kernels[index].cpu(), tuple(y.shape))
                image = blur.crop(method.solve(y.clamp_min(0), blur, Run()))
            truth = sharp[index].cpu().numpy()
            totals.setdefault(f"{name}_snr_db", []).append(snr_db(image.numpy(), truth))
            totals.setdefault(f"{name}_ssim", []).append(ssim(image.numpy(), truth, 1.0))
    return {name: float(np.mean(values)) for name, values in totals.items()}


@torch.no_grad()
def figures(network: UnrolledDouglasRachford, levels: Level) -> dict[str, dict[str, float]]:
    """Return mean SNR and SSIM of the network and of the classical methods by noise level."""
    found = {}
    for name, batches in levels.items():
        rows, sizes = [], []
        for batch, classical in batches:
            image = network(batch.y, batch.blur, batch.seen, half=True)[-1]
            made = batch.blur.crop(image).clamp_min(0).float().cpu().numpy()
            truth = batch.blur.crop(batch.sharp).cpu().numpy()
            pairs = list(zip(made, truth, strict=True))
            rows.append(
                {
                    **classical,
                    "deep_blur_snr_db": float(np.mean([snr_db(one, true) for one, true in pairs])),
                    "deep_blur_ssim": float(np.mean([ssim(one, true, 1.0) for one, true in pairs])),
                }
            )
            sizes.append(len(pairs))
        found[name] = {
            key: round(float(np.average([row[key] for row in rows], weights=sizes)), 4) for key in rows[0]
        }
    return found


def make_card(
    network: UnrolledDouglasRachford,
    recipe: RestorationRecipe,
    pool: Pool,
    state: State,
    device: torch.device,
    processes: int,
) -> dict[str, Any]:
    """Return the card without its sha256 and its held-out figures."""
    return {
        "id": recipe.id,
        "title": "Deep-Blur, deblurring",
        "task": "deblurring",
        "licence": "BSD-3-Clause",
        "config": network.config,
        "parameter_names": [],
        "parameter_ranges": {},
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "trained_for": {
            "kernels": KINDS,
            "cutoff_cycles_per_px": list(CUTOFFS),
            "photons": list(PHOTONS),
            "read_noise_share": list(READ_NOISE),
            "haze_share": list(HAZE),
            "half_energy_radius_px": radius_range(),
            "object_px": OBJECT_PX,
        },
        "recipe": recipe.model_dump(),
        "data": {
            "groups": {name: len(images) for name, images in pool.images.items()},
            "held_out_for_validation": list(VALIDATION_SOURCES),
            "held_out_for_test": list(TEST_SOURCES),
        },
        "training": crops_facts(
            recipe,
            state,
            device,
            processes,
            "bfloat16 autocast for the proximal network, float32 for the rest",
        ),
        "versions": versions(),
    }
