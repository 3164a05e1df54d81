"""Blur and back-project in turns on the CPU, piece by piece, working on each while it is in the cache.

A transform over all axes of a large grid reads and writes the main memory once per axis, and what an
iteration does between its transforms reads and writes it again. Here the grid lives as the spectrum of its
later axes. For a few planes (or rows) at a time that is transformed back, worked on and transformed again in
one go; along the first axis a few lines at a time are transformed, multiplied and transformed back. So one
blur touches the memory twice, whatever is done in between. Planes and rows that are known to be zero, or that
nobody asks for, are left out. Threads take pieces side by side, each with single-threaded transforms, and
meet once per pass.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from napari_deblur.blur import mkl
from napari_deblur.blur.pieces import PIECE_BYTES, each, spans

if TYPE_CHECKING:
    from torch import Tensor

Region = tuple[slice, ...]
"""Part of a grid: a slice for each axis but the last."""
Work = Callable[[Region, "Tensor"], "Tensor"]
"""Gets the place of a piece and its values, which it may overwrite; returns the values to go on with."""

# Complex numbers in a cache line.
_EVEN = 8
# Below these sizes torch's own transform of the whole is as fast or faster.
_LEAST_VOXELS = {2: 2**16, 3: 2**18}


def suits(x: Tensor, ndim: int) -> bool:
    """Return whether a grid is better worked on piece by piece.

    Parameters
    ----------
    x : Tensor
    ndim : int
        Number of the last axes that are transformed; a grid with more is left to torch.
    """
    large = x.numel() >= _LEAST_VOXELS.get(ndim, math.inf)
    return x.device.type == "cpu" and x.ndim == ndim and large and not x.requires_grad


class Chain:
    """The spectrum of one grid, and what can be done with it.

    Parameters
    ----------
    transfer : Tensor, complex
        Transfer function on the rfft grid of ``shape``.
    shape : tuple of int
        Shape (y, x) or (z, y, x) of the grid.
    """

    # Whether transforms start no threads of their own.
    _alone = False

    def __init__(self, transfer: Tensor, shape: tuple[int, ...]) -> None:
        import torch

        self.shape = shape
        # Usable in and out of inference mode.
        with torch.inference_mode(False):
            self._spectrum = self._memory(transfer)
            n_lines = self._spectrum[0].numel()
            self._pieces = spans(slice(0, n_lines), PIECE_BYTES // (4 * shape[0]), _EVEN)
            lines = self._spectrum.view(shape[0], -1)
            self._spectrum[..., : transfer.shape[-1]] = transfer
            self._transfers = [self._arranged(lines[:, piece]) for piece in self._pieces]
            self._conjugates = [piece.conj().resolve_conj() for piece in self._transfers]
            self._spectrum.zero_()

    def load(self, x: Tensor, region: Region) -> None:
        """Take a grid ``x`` that is zero outside a region."""
        self._by_planes(region, lambda place: self._transform(place, x[place]))

    def work(self, work: Work, region: Region, *, last: bool = False) -> None:
        """Turn a region's values into others, with zeros around it; the last time they are not kept."""

        def change(place: Region) -> None:
            values = work(place, self._values(place))
            if not last:
                self._transform(place, values)

        self._by_planes(region, change)

    def store(self, result: Tensor, region: Region) -> None:
        """Write a region's values to a grid."""

        def keep(place: Region) -> None:
            result[place] = self._values(place)

        self._by_planes(region, keep)

    def filter(self, source: Region, target: Region, *, conjugate: bool = False) -> None:
        """Multiply with the transfer function.

        Parameters
        ----------
        source : tuple of slice
            Where the grid is not zero.
        target : tuple of slice
            What of the result will be asked for.
        conjugate : bool
            Whether the transfer function's conjugate counts: the transpose.
        """
        transfers = self._conjugates if conjugate else self._transfers
        spectrum = self._spectrum.view(self.shape[0], -1)
        spectrum[: source[0].start] = 0
        spectrum[source[0].stop :] = 0
        work = list(zip(self._pieces, transfers, strict=True))
        each(lambda one: self._multiply(spectrum, *one, target[0]), work, here=self._alone)

    def _by_planes(self, region: Region, do: Callable[[Region], None]) -> None:
        """Do something with each piece: some rows of a plane, or some planes of a volume."""
        length = PIECE_BYTES // (4 * math.prod(self.shape[1:]))
        each(lambda part: do((part, *region[1:])), spans(region[0], length), here=self._alone)

    def _memory(self, transfer: Tensor) -> Tensor:
        """Return the memory for the spectrum."""
        import torch

        return torch.empty_like(transfer)

    def _arranged(self, piece: Tensor) -> Tensor:
        """Return a copy of a piece of the transfer function, the values of a line next to each other."""
        import torch

        return piece.t().clone(memory_format=torch.contiguous_format)

    def _multiply(self, spectrum: Tensor, lines: slice, transfer: Tensor, target: slice) -> None:
        """Transform some lines along the first axis, multiply, and transform back."""
        import torch

        # Torch's result has the values of a line next to each other in memory.
        values = torch.fft.fft(spectrum[:, lines], dim=0).t().mul_(transfer)
        spectrum[target, lines] = torch.fft.ifft(values, dim=1)[:, target].t()

    def _values(self, place: Region) -> Tensor:
        """Return what the spectrum holds at a place."""
        import torch

        part = self._spectrum[place[0]]
        for dim, inner in enumerate(place[1:], 1):
            part = torch.fft.ifft(part, dim=dim)[:, inner]
        values: Tensor = torch.fft.irfft(part, n=self.shape[-1])
        return values

    def _transform(self, place: Region, values: Tensor) -> None:
        """Make the spectrum hold values at a place and zeros along the later axes."""
        import torch

        part = self._spectrum[place[0]]
        if len(place) == 1:
            part.copy_(torch.fft.rfft(values))
            return
        inner = place[1]
        part[:, : inner.start] = 0
        part[:, inner.stop :] = 0
        part[:, inner] = torch.fft.rfft(values)
        part.copy_(torch.fft.fft(part, dim=1))


class MklChain(Chain):
    """A chain whose transforms happen in place."""

    _alone = True

    def __init__(self, transfer: Tensor, shape: tuple[int, ...]) -> None:
        super().__init__(transfer, shape)
        self._plans: dict[tuple[int, ...], mkl.Plan] = {}
        self._own = threading.local()

    def _memory(self, transfer: Tensor) -> Tensor:
        import torch

        if transfer.ndim > 2:
            return torch.empty_like(transfer)
        # Rows that start where a cache line does.
        return torch.zeros(len(transfer), -(-transfer.shape[1] // _EVEN) * _EVEN, dtype=transfer.dtype)

    def _arranged(self, piece: Tensor) -> Tensor:
        import torch

        return piece.clone(memory_format=torch.contiguous_format)

    def _multiply(self, spectrum: Tensor, lines: slice, transfer: Tensor, target: slice) -> None:
        del target
        plan = self._plan(self.shape[0], lines.stop - lines.start, spectrum.shape[1], 1)
        part = spectrum[:, lines]
        plan.forward(mkl.address(part))
        part.mul_(transfer)
        plan.backward(mkl.address(part))

    def _values(self, place: Region) -> Tensor:

        sizes = [part.stop - part.start for part in place]
        values = self._scratch((*sizes, self.shape[-1]))
        part = self._spectrum[place[0]]
        if len(place) == 1:
            self._rows(sizes[0]).backward(mkl.address(part), mkl.address(values))
            return values
        for plane, found in zip(part, values, strict=True):
            self._columns().backward(mkl.address(plane))
            self._rows(sizes[1]).backward(mkl.address(plane[place[1]]), mkl.address(found))
        return values

    def _transform(self, place: Region, values: Tensor) -> None:
        part, values = self._spectrum[place[0]], values if len(place) == 2 else values.contiguous()
        if len(place) == 1:
            self._rows(len(part)).forward(mkl.address(values), mkl.address(part))
            return
        inner = place[1]
        for plane, given in zip(part, values, strict=True):
            plane[: inner.start] = 0
            plane[inner.stop :] = 0
            rows = given.contiguous()
            self._rows(len(rows)).forward(mkl.address(rows), mkl.address(plane[inner]))
            self._columns().forward(mkl.address(plane))

    def _scratch(self, shape: tuple[int, ...]) -> Tensor:
        """Return this thread's memory for a piece: fresh memory costs as much as the arithmetic on it."""
        import torch

        kept: dict[tuple[int, ...], Tensor] | None = getattr(self._own, "pieces", None)
        if kept is None:
            kept = self._own.pieces = {}
        if shape not in kept:
            kept[shape] = torch.empty(shape)
        return kept[shape]

    def _rows(self, count: int) -> mkl.Plan:
        """Return the transforms of some real rows."""
        return self._plan(self.shape[-1], count, 1, self._spectrum.shape[-1], self.shape[-1])

    def _columns(self) -> mkl.Plan:
        """Return the transforms of a plane's columns."""
        width = self._spectrum.shape[-1]
        return self._plan(self.shape[1], width, width, 1)

    def _plan(self, *key: int) -> mkl.Plan:
        # Two threads may make the same plan at once; either will do.
        if key not in self._plans:
            self._plans[key] = mkl.Plan(*key)
        return self._plans[key]


def make_chain(transfer: Tensor, shape: tuple[int, ...]) -> Chain:
    """Return the fastest chain that there is."""
    import torch

    if transfer.dtype == torch.complex64 and mkl.available():
        return MklChain(transfer, shape)
    return Chain(transfer, shape)
