"""Training of identification networks, the same on CPU and CUDA, resumable at any checkpoint."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_deblur.core.errors import CancelledError
from napari_deblur.core.params import declare
from napari_deblur.core.run import Run
from napari_deblur.train.recipes import Recipe, recipe
from napari_deblur.train.training import Training

_SHOWN_EVERY = 20


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
) -> list[Path]:
    """Train the networks of a recipe and write their weights and cards.

    Parameters
    ----------
    recipe_id : str
        A PSF family, or ``identification`` for all of them over shared branches.
    out_dir : path
        Weights, cards and checkpoint go here; weights are renewed at every checkpoint that is better.
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
    list of Path
        The weight files, one per family.

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
    training = Training(
        chosen, folder, Path(data_dir) if data_dir else None, _pick_device(device), start_from
    )
    if resume and training.checkpoint.is_file():
        training.state.load(training.checkpoint, training.device)
    return _loop(training, run)


def _loop(training: Training, run: Run) -> list[Path]:
    state, chosen = training.state, training.recipe
    clock, saved = time.monotonic() - state.seconds, state.seconds
    smooth: dict[str, Tensor] = {}
    shown = ""
    batches = training.batches()
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
