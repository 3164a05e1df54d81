"""Work on a large grid in pieces that stay in the cache, with threads that take pieces side by side."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

PIECE_BYTES = 2**19
"""Memory of one piece's values; its spectrum takes as much, and both fit into a core's own cache."""

_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_pool_lock = threading.Lock()


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


def each(work: Callable[[T], object], pieces: Sequence[T]) -> None:
    """Do pieces of work side by side, with as many threads as torch may use."""
    import torch

    n_threads = torch.get_num_threads()
    if n_threads == 1 or len(pieces) == 1:
        for piece in pieces:
            work(piece)
        return
    inference, waiting = torch.is_inference_mode_enabled(), iter(pieces)

    def take_pieces(_: int) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            # A list's iterator hands out each piece once, whichever thread asks.
            for piece in waiting:
                work(piece)

    # Reading the results raises what a piece raised.
    for _ in _threads(n_threads).map(take_pieces, range(n_threads)):
        pass


def _threads(count: int) -> ThreadPoolExecutor:
    """Return the process's threads, each of which computes alone."""
    import torch

    global _pool, _pool_size  # noqa: PLW0603 - one set of threads per process
    with _pool_lock:
        if _pool is None or _pool_size != count:
            if _pool is not None:
                _pool.shutdown(wait=False)
            ready = threading.Barrier(count)
            _pool = ThreadPoolExecutor(count, thread_name_prefix="blur", initializer=_compute_alone)
            # As many tasks as threads that wait for one another: all threads start now.
            for _ in _pool.map(lambda _: ready.wait(), range(count)):
                pass
            _pool_size = count
            # A thread's own number of threads is also what later threads start with: put that back.
            torch.set_num_threads(count)
        return _pool


def _compute_alone() -> None:
    import torch

    torch.get_num_threads()  # takes the process's number, which would else replace ours later
    torch.set_num_threads(1)
