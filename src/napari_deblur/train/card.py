"""The card of a trained network: what it is, what it was trained on, and how well it does."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch

from napari_deblur.core.record import versions
from napari_deblur.nets.identification import IdentificationNet
from napari_deblur.optics.psf import family
from napari_deblur.train.checkpoint import State
from napari_deblur.train.degrade import Degradation
from napari_deblur.train.recipes import Recipe
from napari_deblur.train.tiles import TEST_SOURCES, VALIDATION_SOURCES, Pool


def hardware(device: torch.device) -> str:
    """Name what the training ran on."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in _lines(info) if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {torch.get_num_threads()} threads"


def crops_facts(
    recipe: Any, state: State, device: torch.device, processes: int, precision: str
) -> dict[str, Any]:
    """Return how far a training on crops came, and on what, as its card tells it."""
    return {
        "steps": state.step,
        "crops": state.step * recipe.batch_size,
        "minutes": round(state.seconds / 60, 1),
        "hardware": hardware(device),
        "processes": processes,
        "precision": precision,
        "history": state.history,
    }


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def make_card(
    network: IdentificationNet,
    recipe: Recipe,
    degradation: Degradation,
    pool: Pool,
    training: dict[str, Any],
    held_out: dict[str, dict[str, float]],
) -> dict[str, Any]:
    """Return a card without its sha256.

    Parameters
    ----------
    network : IdentificationNet
    recipe : Recipe
    degradation : Degradation
    pool : Pool
        What the patches were drawn from.
    training : dict
        Steps, patches, minutes, hardware, and whether it ran to its end.
    held_out : dict of dict
        Figures by set.
    """
    model = family(network.model)
    cutoff = degradation.cutoff_cycles_per_px or model.default_cutoff_cycles_per_px
    return {
        "id": network.model,
        "title": f"PSF identification, {model.title}",
        "task": "psf-identification",
        "licence": "BSD-3-Clause",
        "config": network.config,
        "parameter_names": list(model.parameter_names),
        "parameter_units": list(model.parameter_units),
        "parameter_ranges": {name: list(bounds) for name, bounds in model.parameter_ranges.items()},
        "cutoff_cycles_per_px": cutoff if model.needs_cutoff else None,
        "photons": [degradation.photons_low, degradation.photons_high],
        "degradation": degradation.model_dump(),
        "recipe": recipe.model_dump(),
        "data": {
            "groups": {name: len(images) for name, images in pool.images.items()},
            "held_out_for_validation": list(VALIDATION_SOURCES),
            "held_out_for_test": list(TEST_SOURCES),
        },
        "training": training,
        "held_out": held_out,
        "versions": versions(),
    }


def mark_complete(weights: Path) -> None:
    """State on the card of a weight file that its training ran to the end after these weights were best."""
    path = weights.with_suffix(".json")
    card = json.loads(path.read_text(encoding="utf-8"))
    card["training"]["complete"] = True
    partial = path.with_suffix(".json.part")
    partial.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
