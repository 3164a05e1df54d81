"""Training of identification networks, the same on CPU and CUDA, resumable at any checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from napari_deblur.core.errors import CancelledError
from napari_deblur.core.run import Run
from napari_deblur.train.recipes import Recipe, recipe
from napari_deblur.train.training import Training
from napari_deblur.train.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_deblur.train.checkpoint import State
    from napari_deblur.train.crops import SceneRenewal

_SHOWN_EVERY = 20


class Pace(Protocol):
    """What the loop reads of a recipe."""

    @property
    def checkpoint_minutes(self) -> float: ...  # noqa: D102
    @property
    def patience(self) -> int: ...  # noqa: D102


class Trainable(Protocol):
    """A training in progress, as the loop needs it."""

    state: State
    workers: Workers
    device: torch.device
    given_up: bool

    @property
    def recipe(self) -> Pace: ...  # noqa: D102
    @property
    def renewal(self) -> SceneRenewal | None: ...  # noqa: D102
    @property
    def fraction(self) -> float: ...  # noqa: D102
    @property
    def stale(self) -> int: ...  # noqa: D102
    @property
    def checkpoint(self) -> Path: ...  # noqa: D102
    @property
    def weights(self) -> list[Path]: ...  # noqa: D102
    def batches(self) -> Iterator[Any]: ...  # noqa: D102
    def step(self, batch: Any) -> dict[str, Tensor]: ...  # noqa: D102
    def export(self, complete: bool) -> None: ...  # noqa: D102


Begin = Callable[[Any, Path, Path | None, torch.device], Trainable]
"""Makes a training of a recipe, the folder of its weights, that of its data, and a device."""


def pick_device(device: str | None) -> torch.device:
    """Return the device of that name; by default CUDA where there is one, else the CPU."""
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
    chosen = Recipe(**{**base.model_dump(), **wanted})
    run.step(0, 1, "preparing scenes and held-out patches")
    begin = partial(Training, start_from=start_from)
    return start(begin, chosen, out_dir, data_dir, resume=resume, run=run, device=device)


def start(
    begin: Begin,
    chosen: Any,
    out_dir: str | Path,
    data_dir: str | Path | None,
    *,
    resume: bool,
    run: Run,
    device: str | None,
) -> list[Path]:
    """Make a folder, begin a recipe's training there, and train to the end; return the weight files.

    Raises
    ------
    CancelledError
        After a checkpoint was written.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    training = begin(chosen, folder, Path(data_dir) if data_dir else None, pick_device(device))
    return run_loop(training, run, resume=resume)


def run_loop(training: Trainable, run: Run, *, resume: bool) -> list[Path]:
    """Train to the end, with checkpoints, on request from the last one; return the weight files.

    Raises
    ------
    CancelledError
        After a checkpoint was written.
    """
    state, chosen = training.state, training.recipe
    if resume and training.checkpoint.is_file():
        state.load(training.checkpoint, training.device)
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
    except CancelledError as error:
        if training.workers.leads:
            state.save(training.checkpoint)
        error.hint = f"{training.checkpoint} was written, and the same command goes on from it"
        raise
    finally:
        if training.renewal:
            training.renewal.close()
    if training.workers.leads:
        state.save(training.checkpoint)
        training.export(complete=True)
        run.fact("history", state.history)
    return training.weights
