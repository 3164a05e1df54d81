"""Work on a large grid in pieces that stay in the cache, with threads that take pieces side by side."""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable, Sequence
from functools import cache
from queue import SimpleQueue
from typing import TypeVar

from napari_deblur.blur import mkl

T = TypeVar("T")

PIECE_BYTES = 2**21
"""Memory of one piece's values; its spectrum takes as much, and both stay in the cache that cores share.

Smaller ones, which a core's own cache would hold, cost more in hand-overs between threads than they gain.
"""

_known: list[_Helper] = []
_lock = threading.Lock()


def spans(whole: slice, length: int, even: int = 1) -> list[slice]:
    """Cut a span into pieces of about a length, as many for each thread.

    Parameters
    ----------
    whole : slice
        Start and stop.
    length : int
        Largest length of a piece; taken as ``even`` where less.
    even : int
        What all lengths but the last are multiples of.
    """
    import torch

    n_threads = torch.get_num_threads()
    size = -(-(whole.stop - whole.start) // even)
    count = -(-size // max(length // even, 1))
    count = min(-(-count // n_threads) * n_threads, size)
    edges = [whole.start + even * (size * i // count) for i in range(count)] + [whole.stop]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def each(work: Callable[[T], object], pieces: Sequence[T], *, here: bool = False) -> None:
    """Do pieces of work side by side, with as many threads as torch may use.

    Parameters
    ----------
    work : callable
    pieces : sequence
    here : bool
        Whether the calling thread may work, too: if nothing in the work starts threads but by OpenMP.
    """
    import torch

    n_threads = torch.get_num_threads()
    if n_threads == 1 or len(pieces) == 1:
        for piece in pieces:
            work(piece)
        return
    inference, waiting = torch.is_inference_mode_enabled(), iter(pieces)

    def take_pieces() -> None:
        with torch.inference_mode(inference), torch.no_grad():
            # A list's iterator hands out each piece once, whichever thread asks.
            for piece in waiting:
                work(piece)

    # To wake a thread takes as long as a small piece: the calling one works, too, where it can compute alone.
    alone = _openmp() if here else None
    helpers = _helpers(n_threads - 1 if alone else n_threads)
    asked = [helper.ask(take_pieces) for helper in helpers]
    try:
        if alone:
            alone.omp_set_num_threads(1)
            try:
                take_pieces()
            finally:
                alone.omp_set_num_threads(n_threads)
    finally:
        failures = [failure for answer in asked if (failure := answer.get()) is not None]
    if failures:
        raise failures[0]


class _Helper:
    """A thread that computes alone what it is asked to, one thing after the other."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Callable[[], None], SimpleQueue[BaseException | None]]] = SimpleQueue()
        ready = threading.Event()
        threading.Thread(target=self._run, args=(ready,), name="blur", daemon=True).start()
        ready.wait()

    def ask(self, work: Callable[[], None]) -> SimpleQueue[BaseException | None]:
        """Have work done; the queue returned gets None then, or what was raised."""
        answer: SimpleQueue[BaseException | None] = SimpleQueue()
        self._tasks.put((work, answer))
        return answer

    def _run(self, ready: threading.Event) -> None:
        import torch

        torch.get_num_threads()  # takes the process's number, which would else replace ours later
        torch.set_num_threads(1)
        ready.set()
        while True:
            work, answer = self._tasks.get()
            try:
                work()
            except BaseException as failure:
                answer.put(failure)
            else:
                answer.put(None)
            # What it worked on may be freed while it waits.
            del work, answer


def _helpers(count: int) -> list[_Helper]:
    """Return some of the process's helpers."""
    import torch

    with _lock:
        if len(_known) < count:
            n_threads = torch.get_num_threads()
            _known.extend(_Helper() for _ in range(count - len(_known)))
            # A thread's own number of threads is also what later threads start with: put that back.
            torch.set_num_threads(n_threads)
        return _known[:count]


@cache
def _openmp() -> ctypes.CDLL | None:
    """Return the library by which this thread alone can be kept from starting others; None elsewhere.

    Torch's own setting would for a moment be that of all threads.
    """
    library = mkl.library()
    return library if hasattr(library, "omp_set_num_threads") else None
