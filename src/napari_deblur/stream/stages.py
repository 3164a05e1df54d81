"""The pieces of work of a streamed run; each reads a block, computes and writes, in whichever process."""

from __future__ import annotations

import ctypes
import json
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_deblur.core.atomic import explained
from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import FloatArray, Image
from napari_deblur.core.run import Run
from napari_deblur.io.zarr_writer import ZarrWriter
from napari_deblur.stream.grid import Block
from napari_deblur.stream.part import SUFFIX
from napari_deblur.stream.work import Work, save_psf

if TYPE_CHECKING:
    from torch import Tensor

    from napari_deblur.engine.tiling import Window

_KEPT_OPEN = 2


@lru_cache(maxsize=_KEPT_OPEN)
def _opened(folder: str, revision: str) -> Work:
    job = json.loads((Path(folder) / "job.json").read_text(encoding="utf-8"))
    if job["revision"] != revision:
        raise InvalidInputError("output", "must not be used by another run", repr(folder))
    return Work(Path(folder), job)


def perform(folder: str, revision: str, stage: str, item: int, run: Run | None = None) -> dict[str, Any]:
    """Do one piece of work.

    Parameters
    ----------
    folder : str
        Where the job lies.
    revision : str
        Which state of the job is meant; a worker keeps the job open until it changes.
    stage : str
        One of `STAGES`.
    item : int
        Which piece of it.
    run : Run, optional
        Progress and cancel.

    Returns
    -------
    dict
        What it found (JSON types).

    Raises
    ------
    InvalidInputError
        If the image has gone, was changed or holds values that are not finite.
    OutputError
        If the result cannot be written.
    """
    # Errors of the image are ours by then; what the system itself says is about the folder of the result.
    with explained(Path(folder.removesuffix(SUFFIX))):
        try:
            return STAGES[stage](_opened(folder, revision), item, run or Run())
        finally:
            _give_back_memory()


def close_files() -> None:
    """Close the files that this process keeps open between pieces of work."""
    _opened.cache_clear()


def _give_back_memory() -> None:
    """Give freed memory back to the system where the C library would keep it.

    glibc keeps what large arrays leave between smaller ones that live on. Over many blocks of changing sizes
    that grows to half as much again as any block needs.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def scan(work: Work, item: int, run: Run) -> dict[str, Any]:
    """Find range, sum and missing pieces of one block, for each of its planes or volumes."""
    del run
    block = work.grid("scan")[item]
    work.check_unchanged()
    data = work.arranged(work.image.read(block.keep))
    offset = np.float32(work.step.camera_offset)
    found: dict[str, Any] = {"volumes": {}, "absent": sorted(work.image.absent(block.keep))}
    for number, place in work.volumes(block.keep):
        part = data[place]
        peak = np.unravel_index(int(part.argmax()), part.shape)
        found["volumes"][str(number)] = {
            "peak": [block.keep[axis].start + int(at) for axis, at in zip(work.spatial, peak, strict=True)],
            "low": float(part.min()),
            "high": float(part.max()),
            "sum": float(part.sum(dtype=np.float64)),
            "below": int(np.count_nonzero(part < offset)),
            "cut_off": -float(np.minimum(part - offset, 0).sum(dtype=np.float64)),
        }
    return found


def estimate(work: Work, item: int, run: Run) -> dict[str, Any]:
    """Estimate the PSF of one plane from its pixels."""
    from napari_deblur.optics.settings import Optics
    from napari_deblur.steps.psf_source import resolve

    pixels = work.read_volume(item, tuple(slice(0, size) for size in work.image.shape[-2:]))
    plane = Image(pixels, "yx", work.image.pixel_size_um, name=work.image.name)
    optics = work.job["optics"]
    with work.engine.job(run):
        psf = resolve(
            work.blind,
            plane,
            0,
            method=work.step.method,
            engine=work.engine,
            run=run,
            optics=Optics(**optics) if optics else None,
        )
    save_psf(work.folder, item, psf)
    return {"notes": list(run.notes)}


def settle(work: Work, item: int, run: Run) -> dict[str, Any]:
    """Fix what a method takes from the data on the middle of one plane or volume."""
    import torch

    from napari_deblur.steps.deblur_solve import settle_window

    run.seed = work.step.seed
    window = settle_window(tuple(work.image.shape[axis] for axis in work.spatial))
    y = work.scaled(work.read_volume(item, window))
    method = work.step.method.scaled(work.job["scale"])
    with work.engine.job(run), torch.inference_mode():
        blur = work.blurs(item, run)(y.shape, tuple(part.start for part in window), work.engine.device)
        method = method.settle(torch.from_numpy(y).to(work.engine.device), blur, run)
    return {"method": method.model_dump(mode="json"), "facts": run.facts, "notes": run.notes}


def deblur(work: Work, item: int, run: Run) -> dict[str, Any]:
    """Read a block with its halo, restore it, and write its kept part."""
    block = work.grid()[item]
    work.check_unchanged()
    run.seed = work.step.seed
    data = work.arranged(work.image.read(block.read))
    restored, residual = np.empty(block.shape, np.float32), np.empty(block.shape, np.float32)
    result, rest = work.arranged(restored), work.arranged(residual)
    inner = tuple(block.inner[axis] for axis in work.spatial)
    volumes = work.volumes(block.keep)
    with work.engine.job(run):
        for index, (number, place) in enumerate(volumes):
            part = run.part(index, index + 1, len(volumes))
            before = data[place][inner]
            if number in work.job["constant"]:
                result[place], rest[place] = before, 0
                continue
            both = _restore(work, number, data[place], block, part)[:, *inner]
            both = both * np.float32(work.job["scale"]) + np.float32(work.step.camera_offset)
            result[place], rest[place] = both[0], before - both[1]
    for name, pixels in (("output", restored), ("residual", residual)):
        if name in work.job["sinks"]:
            work.writer(name).write(block.keep, pixels)
    return {
        "sum": float(restored.sum(dtype=np.float64)),
        "residual_squares": float(np.sum(residual.astype(np.float64) ** 2)),
        "facts": run.facts,
        "notes": run.notes,
        "device": work.engine.describe(),
    }


def _restore(work: Work, volume: int, pixels: FloatArray, block: Block, run: Run) -> FloatArray:
    """Return a block restored and the same blurred again, halo included."""
    from napari_deblur.steps.deblur_solve import with_reblurred

    y = work.scaled(pixels)
    blurs, method = work.blurs(volume, run), work.method(volume)
    first = tuple(block.read[axis].start for axis in work.spatial)

    def compute(tile: Tensor, window: Window, part: Run) -> Tensor:
        origin = tuple(a + b for a, b in zip(first, window.origin, strict=True))
        return with_reblurred(method, tile, blurs(window.shape, origin, tile.device), part)

    return work.engine.over_tiles(
        y,
        compute,
        run,
        n_out=2,
        halo_px=work.step.halo_px(work.psf(volume).radii_px),
        bytes_of=work.step.bytes_of(blurs),
        tile_px=work.step.tile_px,
    )


def halve(work: Work, item: int, run: Run) -> dict[str, Any]:
    """Compute one part of one level of a result's pyramid; the items run over sinks, levels and parts."""
    del run
    name, level, part = work.job["pyramid"][item]
    levels = work.writer(name)
    assert isinstance(levels, ZarrWriter)
    levels.halve(level, tuple(slice(*span) for span in part))
    return {}


STAGES = {"scan": scan, "estimate": estimate, "settle": settle, "deblur": deblur, "halve": halve}
