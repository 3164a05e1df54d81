"""What a streamed run takes: memory, blocks and room on the disk."""

from __future__ import annotations

import math
from dataclasses import dataclass

from napari_deblur.core.params import Declared, Param
from napari_deblur.io.lazy import LazyImage
from napari_deblur.stream.executors import Executor, Here

# What Python, torch and zarr take before the first pixel is read.
_BASE_BYTES = 6e8
# Dask stops a worker that comes near its limit.
_SHARE_OF_WORKER = 0.6


class Streaming(Declared):
    """How an image that is larger than memory is worked on."""

    memory_gb: float | None = Param(
        None,
        gt=0,
        le=4096,
        step=0.5,
        title="Memory",
        help="Memory that the run may take, all workers on a machine together; most of what is free if not "
        "given. A larger image is worked on block by block.",
        unit="GB",
    )
    block_px: int | None = Param(
        None,
        ge=16,
        le=65536,
        step=16,
        title="Block",
        help="Side of the blocks, rounded up to whole tiles; what fits the memory if not given.",
        unit="px",
        advanced=True,
    )


@dataclass(frozen=True)
class StreamPlan:
    """What a run will do, told before it starts.

    Attributes
    ----------
    n_blocks : int
    block : tuple of int
        Sides of a block, in the image's axes.
    halo : tuple of int
        How far around a block is read.
    overhead : float
        Pixels computed over pixels of the image.
    memory_bytes : float
        What the largest block takes.
    output_bytes : float
        Size of the results before compression.
    n_done : int
        Blocks that an earlier run has left.
    """

    n_blocks: int
    block: tuple[int, ...]
    halo: tuple[int, ...]
    overhead: float
    memory_bytes: float
    output_bytes: float
    n_done: int = 0

    def __str__(self) -> str:
        block = " × ".join(map(str, self.block))
        halo = " × ".join(map(str, self.halo))
        done = f", {self.n_done} of them done before" if self.n_done else ""
        return (
            f"{self.n_blocks} blocks of {block} pixels with a halo of {halo}{done}; "
            f"{self.memory_bytes / 1e9:.2g} GB of memory, {self.output_bytes / 1e9:.3g} GB of output"
        )


def must_stream(image: LazyImage, settings: Streaming, executor: Executor | None = None) -> bool:
    """Return whether an image is too large to be deblurred in memory.

    A run there takes the file's pixels, the image, the result and the image blurred again, and for one plane
    or volume at a time six more.

    Parameters
    ----------
    image : LazyImage
    settings : Streaming
    executor : Executor, optional
        Where it would be; the process itself by default.
    """
    together = "zyx" if "z" in image.axes else "yx"
    block = math.prod(n for letter, n in zip(image.axes, image.shape, strict=True) if letter in together)
    return needed_bytes(image) + 6 * 4 * block > budget_bytes(settings, executor or Here())


def needed_bytes(image: LazyImage) -> float:
    """Return the memory that an image, its result and one copy take beside the file's own numbers."""
    return float(image.size * (image.pixels.dtype.itemsize + 3 * 4))


def budget_bytes(settings: Streaming, executor: Executor) -> float:
    """Return the memory that one piece of work may take."""
    from napari_deblur.engine.device import memory_budget_bytes

    if settings.memory_gb is None and executor.memory_bytes is not None:
        share = _SHARE_OF_WORKER * executor.memory_bytes
    else:
        whole = settings.memory_gb * 1e9 if settings.memory_gb else float(memory_budget_bytes("cpu"))
        share = whole / executor.n_here
    return max(share - _BASE_BYTES, 0.1 * share)
