"""Filter a large grid on the CPU piece by piece, so that the pieces stay in the cache.

A transform over all axes of a large grid reads and writes the main memory once per axis, and its temporary
copies are given back to the system and taken from it anew every time. Here the first axis is transformed last
and first again: forward along it, times the transfer function, and back, for one group of lines while that
lies in the cache. The other axes are transformed for a few planes (or rows) at a time. Threads take pieces
side by side, each with single-threaded transforms; they meet three times per filter, not at each operation.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_PIECE_BYTES = 2**20
# Below these sizes the whole lies in the cache anyway, and torch's own transform is as fast or faster.
_LEAST_VOXELS = {2: 2**23, 3: 2**21}

_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_pool_lock = threading.Lock()


def suits(x: Tensor, ndim: int) -> bool:
    """Return whether a grid is better filtered piece by piece.

    Parameters
    ----------
    x : Tensor
    ndim : int
        Number of the last axes that are transformed; a grid with more is left to torch.
    """
    large = x.numel() >= _LEAST_VOXELS.get(ndim, math.inf)
    return x.device.type == "cpu" and x.ndim == ndim and large and not x.requires_grad


class BlockedFilter:
    """Filters grids of one shape; keeps the memory of their spectrum.

    Parameters
    ----------
    shape : tuple of int
        Shape (y, x) or (z, y, x) of the grid.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._spectrum: Tensor | None = None

    def __call__(
        self, x: Tensor, transfer: Tensor, *, conjugate: bool = False, overwrite: bool = False
    ) -> Tensor:
        """Return ``x`` filtered.

        Parameters
        ----------
        x : Tensor, shape ``shape``
        transfer : Tensor, complex
            On the rfft grid of ``shape``.
        conjugate : bool
            Whether the transfer function's conjugate counts.
        overwrite : bool
            Whether the result may take the place of ``x``.
        """
        import torch

        spectrum = self._memory(transfer)
        result = x if overwrite else torch.empty_like(x)
        rest, sizes = tuple(range(1, x.ndim)), self.shape[1:]
        planes = max(1, _PIECE_BYTES // (4 * math.prod(sizes)))
        lines = max(1, _PIECE_BYTES // (8 * (spectrum.numel() // spectrum.shape[1])))

        def forward(start: int) -> None:
            part = slice(start, start + planes)
            spectrum[part] = torch.fft.rfftn(x[part], dim=rest)

        def middle(start: int) -> None:
            part = (slice(None), slice(start, start + lines))
            factor = transfer[part].conj() if conjugate else transfer[part]
            piece = torch.fft.fft(spectrum[part], dim=0).mul_(factor)
            spectrum[part] = torch.fft.ifft(piece, dim=0)

        def backward(start: int) -> None:
            part = slice(start, start + planes)
            result[part] = torch.fft.irfftn(spectrum[part], s=sizes, dim=rest)

        each(forward, range(0, self.shape[0], planes))
        each(middle, range(0, spectrum.shape[1], lines))
        each(backward, range(0, self.shape[0], planes))
        return result

    def _memory(self, transfer: Tensor) -> Tensor:
        import torch

        if self._spectrum is None:
            # Usable in and out of inference mode.
            with torch.inference_mode(False):
                self._spectrum = torch.empty(transfer.shape, dtype=transfer.dtype)
        return self._spectrum


def by_pieces(x: Tensor, work: Callable[[slice], None]) -> None:
    """Do element-wise work on spans of a grid's first axis: all at once, or piece by piece where that suits.

    Parameters
    ----------
    x : Tensor
        One of the grids that are worked on.
    work : callable
        Does all its operations on one span, which then stays in the cache between them.
    """
    if not suits(x, x.ndim):
        work(slice(None))
        return
    planes = max(1, _PIECE_BYTES // (4 * math.prod(x.shape[1:])))
    each(lambda start: work(slice(start, start + planes)), range(0, x.shape[0], planes))


def each(work: Callable[[int], None], starts: Iterable[int]) -> None:
    """Do pieces of work side by side, with as many threads as torch may use."""
    import torch

    n_threads = torch.get_num_threads()
    if n_threads == 1:
        for start in starts:
            work(start)
        return
    inference = torch.is_inference_mode_enabled()

    def in_mode(start: int) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            work(start)

    # Reading the results raises what a piece raised.
    for _ in _threads(n_threads).map(in_mode, starts):
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
