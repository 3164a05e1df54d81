"""What trainings of all kinds have in common: where they are kept, how far they are, what a step draws."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_deblur.nets.weights import save_network
from napari_deblur.train.card import mark_complete
from napari_deblur.train.checkpoint import State
from napari_deblur.train.degrade import Sampler
from napari_deblur.train.workers import Workers


class Progress:
    """A recipe at work, as far as it does not matter what it trains.

    Attributes
    ----------
    recipe : Declared
        With ``id``, ``seed``, ``steps`` and ``minutes``.
    out_dir : Path
    device : torch.device
    workers : Workers
    state : State
    """

    recipe: Any
    out_dir: Path
    device: torch.device
    workers: Workers
    state: State

    @property
    def checkpoint(self) -> Path:
        """Where the training is kept to go on from."""
        return self.out_dir / f"{self.recipe.id}.checkpoint.pt"

    @property
    def weights(self) -> list[Path]:
        """The weight files that it writes."""
        return [self.out_dir / f"{self.recipe.id}.safetensors"]

    @property
    def fraction(self) -> float:
        """Share of the training that is done, by steps or by time."""
        if self.recipe.steps is not None:
            return float(self.state.step / self.recipe.steps)
        return float(self.state.seconds / (60 * self.recipe.minutes))

    @property
    def stale(self) -> int:
        """How many evaluations ago the best one was, by the last held-out set: micrographs, where given."""
        scores = [list(entry.values())[-1] for entry in self.state.history]
        return len(scores) - 1 - scores.index(max(scores)) if scores else 0

    def draws(self, step: int) -> tuple[np.random.Generator, Sampler]:
        """Return the generators of one step: its own, so that a resumed training sees the same batches."""
        seed = (self.recipe.seed * 1_000_003 + step) * 64 + self.workers.rank
        generator = torch.Generator(device=self.device).manual_seed(seed)
        return np.random.default_rng([self.recipe.seed, step, self.workers.rank]), Sampler(generator)


class OneNetwork(Progress, ABC):
    """A recipe at work that trains one network.

    Attributes
    ----------
    average : Module
        The averaged weights, which are written.
    """

    average: torch.nn.Module

    @abstractmethod
    def evaluate(self) -> dict[str, Any]:
        """Return held-out figures of the averaged weights, and note their means in the history."""

    @abstractmethod
    def card(self) -> dict[str, Any]:
        """Return the card without its sha256 and its held-out figures."""

    def export(self, complete: bool) -> None:
        """Evaluate, and write weights and card if they are the best so far."""
        found = self.evaluate()
        path = self.weights[0]
        if self.stale and path.is_file():
            if complete:
                mark_complete(path)
            return
        card = self.card()
        card["training"]["complete"] = complete
        save_network(self.average.state_dict(), {**card, "held_out": found}, self.out_dir)
