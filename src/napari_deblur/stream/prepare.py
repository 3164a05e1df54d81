"""What comes before the first block: the PSF, the blocks, and a first pass over the whole image."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.run import Run
from napari_deblur.optics.psf_basis import PsfBasis
from napari_deblur.steps.psf_rules import BlindPsf
from napari_deblur.stream.executors import Executor, here
from napari_deblur.stream.grid import Grid
from napari_deblur.stream.part import Part
from napari_deblur.stream.plan import StreamPlan, budget_bytes
from napari_deblur.stream.seen import Seen
from napari_deblur.stream.sizes import BYTES_PER_PX, Sizes, reading_grid
from napari_deblur.stream.stages import perform
from napari_deblur.stream.wanted import Wanted
from napari_deblur.stream.work import BASIS_FILE, Work, save_psf

if TYPE_CHECKING:
    from napari_deblur.steps.plane_psf import PlanePsf


class Preparation:
    """Everything before the first block is computed; see `napari_deblur.stream.run.deblur_file`."""

    def __init__(self, wanted: Wanted, part: Part, executor: Executor | None, run: Run | None) -> None:
        self.wanted, self.part = wanted, part
        self.step, self.image, self.psf = wanted.step, wanted.image, wanted.psf
        self.executor, self.run = executor or here(), run or Run()
        self.job: dict[str, Any] = {}
        self._work: Work | None = None

    def begin(self) -> None:
        """Take up the job that was begun before if it is the same, else begin anew.

        Raises
        ------
        OutputError
            If another job was begun there, and may not be discarded.
        """
        image, identity = self.image, self.wanted.identity()
        before = self.part.load_job()
        if before is not None:
            otherwise = self.wanted.begun_otherwise(self.part, before.get("identity", {}), identity)
            if not otherwise:
                self.job = before
                return
            if any(self.part.done.values()):
                self.wanted.refuse(otherwise)
                self.run.note(f"{self.part.folder.name} was begun with other settings and was begun again.")
        source = {
            "path": str(image.path.resolve()),
            "axes": image.axes,
            "series": image.series,
            "pixel_size_um": image.pixel_size_um,
            "z_step_um": image.z_step_um,
            "fingerprint": identity["fingerprint"],
        }
        self.job = {
            "identity": identity,
            "source": source,
            "step": identity["step"],
            "optics": identity["optics"],
            "output": str(self.wanted.targets["output"]),
            "revision": "",
        }
        self.part.restart(self.job)

    def _update(self, **values: Any) -> None:
        """Write more of the job, under a new revision so that no worker goes on with the old one."""
        self.job = {**self.job, **json.loads(json.dumps(values)), "revision": uuid.uuid4().hex}
        self.part.save_job(self.job)

    def _do(self, stage: str, items: Sequence[int], run: Run, message: str) -> None:
        """Have all pieces of a stage done that are not done yet."""
        left = [item for item in items if item not in self.part.finished(stage)]
        folder, revision = str(self.part.folder), str(self.job["revision"])
        pieces = [(folder, revision, stage, item) for item in left]
        for number, found in self.executor.each(perform, pieces, run, message):
            self.part.mark(stage, left[number], found)

    @property
    def work(self) -> Work:
        """The job as a worker sees it."""
        if self._work is None or self._work.job is not self.job:
            self._work = Work(self.part.folder, self.job)
        return self._work

    @property
    def grid(self) -> Grid:
        """The blocks."""
        return self.work.grid()

    def _prepare_psf(self, run: Run) -> None:
        if "psf_shared" in self.job and "blind" not in self.job:
            return
        from napari_deblur.steps.psf_rules import restored_ndim
        from napari_deblur.steps.psf_source import resolve

        psf, method = self.psf, self.step.method
        if psf is None and method.default_psf is not None:
            psf = BlindPsf(method.default_psf, method.default_one_psf)
        if isinstance(psf, PsfBasis):
            psf.save(self.part.folder / BASIS_FILE, overwrite=True)
            psf = BASIS_FILE
        if isinstance(psf, str | BlindPsf):
            self._estimate(BlindPsf(psf) if isinstance(psf, str) else psf, run)
            return
        stub = self.image.stub()
        n_spatial = restored_ndim(psf, stub, self.step.method)
        self._update(n_spatial=n_spatial)
        resolved: list[PlanePsf] = []
        for number in range(self.work.n_volumes):
            resolved.append(
                resolve(
                    psf,
                    stub,
                    number,
                    method=self.step.method,
                    engine=self.work.engine,
                    run=run,
                    optics=self.wanted.optics,
                )
            )
            save_psf(self.part.folder, number, resolved[-1])
            if resolved[-1].shared:
                break
        self._update(psf_shared=resolved[0].shared)

    def _estimate(self, psf: BlindPsf, run: Run) -> None:
        """Estimate the PSF of every plane from its pixels."""
        shape = self.image.shape[-2:]
        plane = math.prod(shape)
        budget = budget_bytes(self.wanted.settings, self.executor)
        if plane * BYTES_PER_PX > budget:
            rule = "must be given as a file, a map or optics where a single plane is larger than the memory"
            raise InvalidInputError("psf", rule, f"{psf.model!r} for planes of {shape} pixels")
        planes = math.prod(self.image.shape[:-2])
        if "psf_shared" not in self.job:
            self._update(psf_shared=planes == 1, n_spatial=2, blind=psf.model, one_psf=psf.one_psf)
        if self.psf is None:
            self.run.note(f"No PSF was given: it is estimated from the image with {psf.model}.")
        self._scan(run.part(0, 1, 2))  # a plane that is constant tells nothing of its PSF
        self._do("estimate", self.work.restored, run.part(1, 2, 2), "PSF of plane")

    def _plan(self) -> StreamPlan:
        work = self.work
        sizes = Sizes(
            self.wanted, self.executor, work.blurs(work.first, Run()), on_cpu=work.engine.device == "cpu"
        )
        if "grid" not in self.job:
            self._update(grid=vars(sizes.choose(self.run)))
        return sizes.plan(self.grid, len(self.part.finished("deblur")))

    def _scan(self, run: Run) -> None:
        if "scan" not in self.job:
            self._update(scan=vars(reading_grid(self.wanted, self.executor)))
        self._do("scan", range(len(self.work.grid("scan"))), run, "reading")
        if "scale" in self.job:
            return
        seen = Seen.of(self.part.finished("scan").values())
        lows, highs = seen.lows, seen.highs
        offset = np.float32(self.step.camera_offset)
        if (lows == highs).all():
            rule = "must not be constant, there is nothing to restore"
            unlike = len(set(lows)) > 1
            raise InvalidInputError(
                "image", rule, "constant planes" if unlike else f"{float(lows[0]):g} everywhere"
            )
        scale = float(max(np.abs(lows - offset).max(), np.abs(highs - offset).max())) or 1.0
        self._update(
            scale=scale,
            constant=[n for n, low, high in zip(seen.numbers, lows, highs, strict=True) if low == high],
            absent=seen.absent,
            below=seen.below,
            sum=seen.total,
            cut_off=seen.cut_off,
            brightest=self.work.position(*seen.brightest),
        )

    def _settle(self, run: Run) -> None:
        if "settled" in self.job:
            return
        count = self.work.n_volumes
        if self.step.method.settles_in_solve and len(self.grid) <= count:
            # Every plane or volume is one block, and the method takes from it what it needs.
            scaled = self.step.method.scaled(self.job["scale"])
            self._update(settled=[scaled.model_dump(mode="json")])
            return
        self._do("settle", self.work.restored, run, "settling")
        found = self.part.finished("settle")
        first = found[self.work.first]["method"]
        # What is constant is left as it is; its place is filled only to keep the others' numbers.
        methods = [found[number]["method"] if number in found else first for number in range(count)]
        alike = all(method == first for method in methods)
        self._update(settled=methods[:1] if alike else methods)
