"""What blocks take, and which of them fit."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_deblur.core.errors import InvalidInputError, OutputError
from napari_deblur.core.run import Run
from napari_deblur.io.formats import is_zarr
from napari_deblur.stream.executors import Executor
from napari_deblur.stream.grid import Grid, choose_grid, scan_grid
from napari_deblur.stream.plan import StreamPlan, budget_bytes
from napari_deblur.stream.wanted import Wanted

if TYPE_CHECKING:
    from napari_deblur.steps.plane_psf import BlurFactory

BYTES_PER_PX = 48
"""Taken by a pixel of a block while it is read and written: as it is in the file, as float32 and scaled, two
results as they come and in grey values, and what is written."""
# And while the method is at work, beside its own: as float32 and scaled, and room for the results.
_BYTES_WHILE_SOLVING = 16
_SCAN_BYTES = 2**28


@dataclass(frozen=True)
class Sizes:
    """What the blocks of a job take.

    Attributes
    ----------
    wanted : Wanted
    executor : Executor
    blurs : BlurFactory
        Of one of its PSFs; only their sizes count.
    on_cpu : bool
        Whether the method too works in the memory that is budgeted.
    """

    wanted: Wanted
    executor: Executor
    blurs: BlurFactory
    on_cpu: bool

    @property
    def spatial(self) -> tuple[int, ...]:
        """Numbers of the axes that are restored together."""
        letters = "zyx"[-len(self.blurs.margin) :]
        return tuple(self.wanted.image.axes.index(letter) for letter in letters)

    def bytes_of(self, shape: tuple[int, ...]) -> float:
        """Return the memory that a block of a shape takes, halo included."""
        on_device = self.wanted.step.bytes_of(self.blurs)
        solving = on_device(tuple(shape[axis] for axis in self.spatial)) if self.on_cpu else 0.0
        size = float(np.prod(shape, dtype=np.float64))
        one = max(BYTES_PER_PX * size, _BYTES_WHILE_SOLVING * size + solving)
        return one + (self.executor.n_at_once - 1) * BYTES_PER_PX * size

    def choose(self, run: Run) -> Grid:
        """Choose the blocks.

        Raises
        ------
        InvalidInputError
            If not even the smallest fits into the memory that the user allows.
        """
        image, settings = self.wanted.image, self.wanted.settings
        halo = [0] * len(image.shape)
        for axis, reach in zip(self.spatial, self.wanted.step.halo_px(self.blurs.margin), strict=True):
            halo[axis] = reach
        budget = budget_bytes(settings, self.executor)
        grid = choose_grid(
            image.shape,
            tuple(halo),
            bytes_of=self.bytes_of,
            budget_bytes=budget,
            stored=image.chunks,
            block_px=settings.block_px,
        )
        self._check_memory(self.bytes_of(grid.largest_read), budget, run)
        return grid

    def _check_memory(self, need: float, budget: float, run: Run) -> None:
        """Refuse, or where the user set no limit remark, that not even the smallest block fits."""
        settings = self.wanted.settings
        if need <= budget or settings.block_px is not None:
            return
        if settings.memory_gb is not None:
            least = settings.memory_gb * need / budget
            rule = f"must be at least {least:.2g} for the smallest blocks of this image and PSF"
            raise InvalidInputError("memory_gb", rule, settings.memory_gb)
        run.note(f"Even the smallest blocks take {need / 1e9:.2g} GB where {budget / 1e9:.2g} GB are free.")

    def plan(self, grid: Grid, n_done: int) -> StreamPlan:
        """Return what is to be done with these blocks."""
        return StreamPlan(
            len(grid),
            tuple(min(pair) for pair in zip(grid.keep, grid.shape, strict=True)),
            grid.halo,
            grid.overhead,
            self.bytes_of(grid.largest_read),
            _output_bytes(self.wanted),
            n_done,
        )


def reading_grid(wanted: Wanted, executor: Executor) -> Grid:
    """Choose the pieces in which all of the image is read once."""
    image = wanted.image
    budget = budget_bytes(wanted.settings, executor)
    reading = int(min(_SCAN_BYTES, budget / 4) / (4 + image.pixels.dtype.itemsize))
    return scan_grid(image.shape, image.chunks, largest_px=reading)


def _output_bytes(wanted: Wanted) -> float:
    """Return the size of the results before compression, pyramids included."""
    per_px = (
        np.dtype(wanted.dtype_of(name)).itemsize * (4 / 3 if is_zarr(kind) else 1)
        for name, kind in wanted.formats.items()
    )
    return wanted.image.size * sum(per_px)


def check_space(wanted: Wanted, plan: StreamPlan, run: Run) -> None:
    """Refuse before the work what cannot fit on the disk.

    Raises
    ------
    OutputError
    """
    path = wanted.targets["output"]
    free = shutil.disk_usage(path.parent).free
    need = plan.output_bytes * (1 - plan.n_done / max(plan.n_blocks, 1))
    if free >= need:
        return
    text = f"{need / 1e9:.3g} GB are needed where {free / 1e9:.3g} GB are free"
    if all(is_zarr(kind) for kind in wanted.formats.values()):  # compressed, by how much nobody knows
        run.note(f"The disk may become full: before compression {text}.")
        return
    raise OutputError(f"output must lie on a disk with enough room ({text}); received {str(path)!r}")
