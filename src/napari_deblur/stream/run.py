"""Deblur an image block by block from one file to another, never holding the whole."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_deblur.core.atomic import explained, move
from napari_deblur.core.errors import NapariDeblurError
from napari_deblur.core.record import Record
from napari_deblur.core.run import Run
from napari_deblur.io.formats import is_zarr
from napari_deblur.io.lazy import LazyImage
from napari_deblur.io.numbers import Dtype, with_dtype
from napari_deblur.methods.base import make_method
from napari_deblur.optics.settings import Optics
from napari_deblur.stream.executors import Executor
from napari_deblur.stream.part import Part
from napari_deblur.stream.plan import Streaming, StreamPlan
from napari_deblur.stream.prepare import Preparation
from napari_deblur.stream.sizes import check_space
from napari_deblur.stream.stages import close_files
from napari_deblur.stream.wanted import Wanted

if TYPE_CHECKING:
    from napari_deblur.steps.deblur import Deblur
    from napari_deblur.steps.psf_rules import PsfSource


@dataclass(frozen=True)
class StreamResult:
    """What came of a run.

    Attributes
    ----------
    outputs : dict of Path
        ``output`` and, if asked for, ``residual``.
    record : Record
    plan : StreamPlan
    """

    outputs: dict[str, Path]
    record: Record
    plan: StreamPlan


def deblur_file(
    step: Deblur,
    image: LazyImage,
    output: str | os.PathLike[str],
    psf: PsfSource = None,
    *,
    optics: Optics | None = None,
    residual: str | os.PathLike[str] | None = None,
    format: str | None = None,
    dtype: Dtype = "float32",
    overwrite: bool = False,
    settings: Streaming | None = None,
    executor: Executor | None = None,
    run: Run | None = None,
    on_plan: Callable[[StreamPlan], None] | None = None,
    psf_path: Path | None = None,
) -> StreamResult:
    """Deblur an image block by block.

    The result equals that of `Deblur.run` to 1e-4 of the range for methods whose tiles agree: scale and
    offset hold for the whole image, whose range is found in a first pass, and what a method takes from the
    data is settled before the first block. Until it is whole, the result lies in ``<output>.part``; a run
    that was stopped, however it was, goes on there from its last finished block.

    Parameters
    ----------
    step : Deblur
    image : LazyImage
        See `napari_deblur.io.lazy.open_image`.
    output : path-like
        ``.zarr`` or ``.tif``/``.tiff``; the latter is written as OME-TIFF in tiles.
    psf : ndarray or PsfMap or list of PsfMap or Optics or str or None
        As for `Deblur.run`. A blind estimate needs each plane in memory for itself.
    optics : Optics, optional
        Helps a blind estimate.
    residual : path-like, optional
        Where to write what the result does not explain.
    format : str, optional
        One of `napari_deblur.io.formats.FORMATS`; by default the suffix's own.
    dtype : {"float32", "uint16"}
        Numbers of the result; the residual is always float32. With whole ones the brightest block comes
        first, so that a result that does not fit them is most often refused at once.
    overwrite : bool
        Whether results that exist, or were begun with other settings, may be replaced.
    settings : Streaming, optional
    executor : Executor, optional
        Where blocks are computed; this process by default.
    run : Run, optional
        Progress and cancel.
    on_plan : callable, optional
        Told what will be done before the start.
    psf_path : Path, optional
        File that the PSF came from, for the record.

    Raises
    ------
    InvalidInputError
        If the image or the PSF breaks a rule, or the image goes, changes or turns out not to be finite.
    OutputError
        If a result exists, was begun with other settings, is being written by another run, or cannot be
        written.
    CancelledError
        If cancelled.
    """
    wanted = Wanted.checked(
        step,
        image,
        output,
        residual,
        format,
        psf=psf,
        optics=optics,
        dtype=dtype,
        overwrite=overwrite,
        settings=settings or Streaming(),
    )
    part = Part(wanted.targets["output"])
    with part.held():
        job = _StreamRun(wanted, part, executor, run)
        job.psf_path = psf_path
        job.begin()  # what it refuses to discard stays as it is
        try:
            return job.all(on_plan)
        except BaseException as error:
            kept = len(part.finished("deblur"))
            if not kept:
                part.remove()
            elif isinstance(error, NapariDeblurError):
                error.hint = (
                    f"{kept} finished blocks are kept in {part.folder.name}: the same command goes on there"
                )
            raise
        finally:
            close_files()


class _StreamRun(Preparation):
    """One run: prepares the job, has its pieces done, and puts the results into place."""

    psf_path: Path | None = None

    def all(self, on_plan: Callable[[StreamPlan], None] | None) -> StreamResult:
        started = time.perf_counter()
        self._prepare_psf(self.run.part(0, 2, 100))
        plan = self._plan()
        if on_plan is not None:
            on_plan(plan)
        if "sinks" not in self.job:
            check_space(self.wanted, plan, self.run)
        self._scan(self.run.part(2, 8, 100))
        self._settle(self.run.part(8, 10, 100))
        self._create()
        restoring = self.run.part(10, 97, 100)
        if self.wanted.dtype != "float32":
            first = self.grid.number_at(tuple(self.job["brightest"]))
            self._do(
                "deblur", range(first, first + 1), restoring.part(0, 1, len(self.grid)), "brightest block"
            )
        self._do("deblur", range(len(self.grid)), restoring, "block")
        self._pyramid(self.run.part(97, 100, 100))
        record = self._record(started, plan)
        self._finish(record)
        return StreamResult(self.wanted.targets, record, plan)

    def _create(self) -> None:
        """Make the empty results."""
        if "sinks" in self.job:
            return
        from napari_deblur.io.tiff_writer import TiledTiffWriter
        from napari_deblur.io.zarr_writer import ZarrWriter

        wanted, sinks, levels = self.wanted, {}, []
        for name, kind in wanted.formats.items():
            zarr = is_zarr(kind)
            file = f"{name}{'.zarr' if zarr else '.ome.tif'}"
            title = f"{self.image.name} · {self.step.method.label}" + (
                " · residual" if name == "residual" else ""
            )
            stub = replace(self.image.stub(), name=title)
            with explained(wanted.targets[name], name):
                if zarr:
                    writer = ZarrWriter.create(
                        self.part.folder / file,
                        stub,
                        version="0.5" if kind.endswith("0.5") else "0.4",
                        chunks=self.grid.chunks(),
                        dtype=wanted.dtype_of(name),
                    )
                    levels += [
                        [name, level, [[s.start, s.stop] for s in region]]
                        for level in range(1, writer.n_levels)
                        for region in writer.parts(level)
                    ]
                else:
                    TiledTiffWriter.create(
                        self.part.folder / file, stub, blocks=self.grid.keep, dtype=wanted.dtype_of(name)
                    )
            sinks[name] = {"file": file, "format": kind}
        self._update(sinks=sinks, pyramid=levels)

    def _pyramid(self, run: Run) -> None:
        """Compute the pyramids level by level: each needs the whole of the one before."""
        todo = self.job["pyramid"]
        for level in sorted({entry[1] for entry in todo}):
            items = [number for number, entry in enumerate(todo) if entry[1] == level]
            self._do("halve", range(items[0], items[-1] + 1), run, "pyramid")

    def _record(self, started: float, plan: StreamPlan) -> Record:
        from napari_deblur.steps.deblur_record import described_psf, described_run, flux_facts

        blocks = list(self.part.finished("deblur").values())
        offset = np.float64(self.step.camera_offset) * self.image.size
        facts: dict[str, Any] = {"restored_in": f"{self.job['n_spatial']}D"}
        for stage in ("estimate", "settle", "deblur"):
            for _, entry in sorted(self.part.finished(stage).items()):
                facts |= entry.get("facts", {})
                for note in entry.get("notes", []):
                    self.run.note(note)
        if self.job["below"] and self.step.method.non_negative:
            share = self.job["below"] / self.image.size
            self.run.note(f"Values below the camera offset ({share:.1%} of the pixels) count as zero.")
        for number in self.job["constant"]:
            unit = "Plane" if self.job["n_spatial"] == 2 else "Volume"
            self.run.note(f"{unit} {number} is constant and was left as it is.")
        if plan.n_blocks > self.work.n_volumes and not self.step.method.tiles_agree:
            title = self.step.method.title
            self.run.note(f"{title} was computed in blocks, which differ slightly from the whole.")
        squares = sum(block["residual_squares"] for block in blocks)
        facts |= {
            **flux_facts(
                float(self.job["sum"] - offset),
                float(sum(block["sum"] for block in blocks) - offset),
                float(self.job["cut_off"]) if self.step.method.non_negative else 0.0,
            ),
            "reblur_residual_rms": math.sqrt(squares / self.image.size),
            "blocks": plan.n_blocks,
            "block_px": list(plan.block),
            "halo_px": list(plan.halo),
        }
        work, image, ndim = self.work, self.image.stub(), int(self.job["n_spatial"])
        psf, numbers = work.psf(work.first), [0] if self.job["psf_shared"] else work.restored
        described = described_psf({n: work.psf(n).description for n in numbers}, image, ndim)
        path = {"path": str(self.psf_path.resolve())} if self.psf_path else {}
        return Record(
            step=self.step.model_dump(mode="json"),
            seed=self.step.seed,
            device="; ".join(sorted({block["device"] for block in blocks})),
            seconds=round(time.perf_counter() - started, 3),
            input=described_run(image, described, self.wanted.optics),
            psf={**described, **path},
            weights=psf.weights | self._checksums(),
            facts=facts,
            notes=list(self.run.notes),
            learned=self.step.method.learned,
        )

    def _checksums(self) -> dict[str, str]:
        """Return the sha256 of the networks of the method, also of one that was chosen by the PSF."""
        from napari_deblur.steps.deblur_record import checksums

        found = checksums(self.step.method)
        for settled in self.job["settled"]:
            found |= checksums(make_method(dict(settled)))
        return found

    def _finish(self, record: Record) -> None:
        """Put the finished results into place, and remove what they grew in."""
        work, wanted = self.work, self.wanted
        work.check_unchanged()
        for name, target in wanted.targets.items():
            with explained(target, name):
                work.writer(name).set_record(with_dtype(record.to_dict(), wanted.dtype_of(name)))
                path = self.part.folder / self.job["sinks"][name]["file"]
                for leftover in path.rglob("*.partial") if path.is_dir() else ():
                    leftover.unlink()  # of a worker that was killed while it wrote
                move(path, target, overwrite=wanted.overwrite, argument=name)
        self.part.remove()
