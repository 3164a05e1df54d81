"""One step of an optimisation that is run many times: recorded as a CUDA graph, one by one elsewhere.

An iteration of a small network is a few hundred kernels, each of a few microseconds: on a graphics card
Python cannot start them as fast as they end. A graph starts them all at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

from napari_deblur.core.run import Run

T = TypeVar("T")
Recorder = Callable[[Callable[[], T]], Callable[[], T]]

# Kernels are chosen, plans of transforms made, and the optimiser's state set up in the first ones.
_RUN_FIRST = 3


class Repeated(Generic[T]):
    """A step that is the same every time but for what lies in its tensors.

    Parameters
    ----------
    compute : callable
        Runs the step and returns what others read of it. It takes everything from tensors that stay where
        they are, and waits for nothing that it computes.
    device : torch.device
    run : Run
        Is told if the step could not be recorded.
    record : callable, optional
        Returns what runs a step again without Python; by default a CUDA graph on CUDA, and nothing elsewhere.

    Notes
    -----
    What a recorded step returns is overwritten by the next one.
    """

    def __init__(
        self,
        compute: Callable[[], T],
        device: torch.device,
        run: Run,
        record: Recorder[T] | None = None,
    ) -> None:
        self._compute, self._run, self._done = compute, run, 0
        self._aside = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._record = self._on_cuda if record is None and self._aside is not None else record
        self._again: Callable[[], T] | None = None

    def __call__(self) -> T:
        """Run the step once."""
        if self._again is not None:
            return self._again()
        self._done += 1
        if self._record is None:
            return self._compute()
        if self._done <= _RUN_FIRST:
            return self._beside()
        try:
            self._again = self._record(self._compute)
        except RuntimeError as error:
            reason = str(error).strip().split("\n", maxsplit=1)[0]
            self._run.note(f"The steps ran one by one, which is slower: recording one failed ({reason}).")
            self._record = None
            return self._compute()
        self._run.fact("recorded_steps", True)
        return self._again()

    def _beside(self) -> T:
        """Run the step on the stream that it will be recorded on: backward passes remember theirs."""
        if self._aside is None:
            return self._compute()
        self._aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._aside):
            found = self._compute()
        torch.cuda.current_stream().wait_stream(self._aside)
        return found

    def _on_cuda(self, compute: Callable[[], T]) -> Callable[[], T]:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        with torch.cuda.graph(graph, stream=self._aside):
            found = compute()

        def again() -> T:
            graph.replay()
            return found

        return again
