"""One run: its random generator, its progress, and the place where a cancel takes effect."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from napari_deblur.core.errors import CancelledError

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes
    ----------
    fraction : float
        Share of the whole run that is done, 0 to 1.
    message : str
        What is happening now, in a few words.
    partial : object or None
        Best result so far where the method offers one (a tensor or an array).
    shown : callable or None
        Turns ``partial`` into what may be looked at; not for nothing, so once in a while, and in the thread
        that computes, where ``partial`` changes with the next step.
    """

    fraction: float
    message: str
    partial: Any = None
    shown: Callable[[Any], Any] | None = None


@dataclass
class Run:
    """Seed, progress and cancellation of one run; shared by all parts of it.

    Parameters
    ----------
    seed : int
        Seed of the run's one random generator.
    on_progress : callable, optional
        Called with a `Progress`, in the thread that computes.
    """

    seed: int = 0
    on_progress: Callable[[Progress], None] | None = None
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    _cancel: threading.Event = field(default_factory=threading.Event, repr=False)
    _low: float = 0.0
    _high: float = 1.0
    _shown: Callable[[Any], Any] | None = field(default=None, repr=False)

    def cancel(self) -> None:
        """Ask the run to stop; it does so at its next iteration or tile."""
        self._cancel.set()

    @property
    def cancelled(self) -> bool:
        """Whether a cancel was asked for."""
        return self._cancel.is_set()

    def part(self, start: int, stop: int, total: int) -> Run:
        """Return a view of this run that reports its own 0–1 as ``start/total``–``stop/total``.

        Notes, facts, seed and the cancel flag are shared with the whole.
        """
        span = self._high - self._low
        return Run(
            seed=self.seed,
            on_progress=self.on_progress,
            notes=self.notes,
            facts=self.facts,
            _cancel=self._cancel,
            _low=self._low + span * start / max(total, 1),
            _high=self._low + span * stop / max(total, 1),
            _shown=self._shown,
        )

    def showing(self, shown: Callable[[Any], Any]) -> Run:
        """Return a view of this run whose progress can be looked at.

        Parameters
        ----------
        shown : callable
            Turns what `step` gets as ``partial`` into what may be looked at.
        """
        return replace(self, _shown=shown)

    def step(self, done: int, total: int, message: str, partial: Any = None) -> None:
        """Report progress and stop here if a cancel was asked for.

        Raises
        ------
        CancelledError
            If `cancel` was called. Its ``partial`` attribute holds ``partial``.
        """
        fraction = self._low + (self._high - self._low) * done / max(total, 1)
        if self.on_progress is not None:
            self.on_progress(Progress(fraction, message, partial, self._shown))
        if self._cancel.is_set():
            error = CancelledError(f"cancelled during {message}")
            error.partial = partial
            raise error

    def note(self, text: str) -> None:
        """Keep a remark for the user; each remark once."""
        if text not in self.notes:
            self.notes.append(text)

    def fact(self, name: str, value: Any) -> None:
        """Keep a measured value for the record (JSON types only)."""
        self.facts[name] = value

    def torch_generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a fresh torch generator with the run's seed."""
        import torch

        return torch.Generator(device=device).manual_seed(self.seed)

    def numpy_generator(self) -> np.random.Generator:
        """Return a fresh numpy generator with the run's seed."""
        import numpy as np

        return np.random.default_rng(self.seed)


def elapsed_s(since: float) -> float:
    """Return the seconds since a `time.perf_counter` reading, to the millisecond."""
    return round(time.perf_counter() - since, 3)
