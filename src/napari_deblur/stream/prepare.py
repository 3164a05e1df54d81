"""What comes before the first block: the PSF, the blocks, and a first pass over the whole image."""

from __future__ import annotations

import json
import math
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_deblur.core.errors import InvalidInputError, OutputError
from napari_deblur.core.run import Run
from napari_deblur.io.formats import is_zarr
from napari_deblur.io.lazy import LazyImage
from napari_deblur.io.numbers import Dtype
from napari_deblur.optics.psf_basis import PsfBasis
from napari_deblur.optics.settings import Optics
from napari_deblur.stream.executors import Executor, here
from napari_deblur.stream.grid import Grid, choose_grid, scan_grid
from napari_deblur.stream.part import Part
from napari_deblur.stream.plan import Streaming, StreamPlan, budget_bytes
from napari_deblur.stream.seen import Seen, digest
from napari_deblur.stream.stages import perform
from napari_deblur.stream.work import BASIS_FILE, Work, save_psf

if TYPE_CHECKING:
    from napari_deblur.steps.deblur import Deblur
    from napari_deblur.steps.psf_source import PlanePsf, PsfSource

# Bytes that a pixel of a block takes while it is read and written: as it is in the file, as float32 and
# scaled, two results as they come and in grey values, and what is written.
_BYTES_PER_PX = 48
# And while the method is at work, beside its own: as float32 and scaled, and room for the results.
_BYTES_WHILE_SOLVING = 16
_SCAN_BYTES = 2**28
_SMALLEST_PX = 16


class Preparation:
    """Everything before the first block is computed; see `napari_deblur.stream.run.deblur_file`."""

    def __init__(
        self,
        step: Deblur,
        image: LazyImage,
        psf: PsfSource,
        optics: Optics | None,
        targets: dict[str, Path],
        formats: dict[str, str],
        dtype: Dtype,
        part: Part,
        settings: Streaming | None,
        executor: Executor | None,
        run: Run | None,
    ) -> None:
        self.step, self.image, self.psf, self.optics = step, image, psf, optics
        self.targets, self.formats, self.dtype, self.part = targets, formats, dtype, part
        self.settings, self.executor, self.run = settings or Streaming(), executor or here(), run or Run()
        self.overwrite = False
        self.psf_path: Path | None = None
        self.job: dict[str, Any] = {}
        self._work: Work | None = None

    def dtype_of(self, name: str) -> Dtype:
        """Return the numbers of a result; what is left over has values below zero and fractions."""
        return self.dtype if name == "output" else "float32"

    def _check_image(self) -> None:
        shape = self.image.shape
        if min(shape[-2:]) < _SMALLEST_PX:
            rule = f"must be at least {_SMALLEST_PX} × {_SMALLEST_PX} pixels"
            raise InvalidInputError("image", rule, f"shape {shape}")
        for path in self.targets.values():
            if path.resolve() == self.image.path.resolve():
                raise InvalidInputError("output", "must not be the input", repr(str(path)))

    def _begin(self) -> None:
        """Take up the job that was begun before if it is the same, else begin anew."""
        image = self.image
        identity = {
            "source": str(image.path.resolve()),
            "fingerprint": image.fingerprint(),
            "image": [image.series, image.axes, image.shape, image.pixel_size_um, image.z_step_um],
            "step": self.step.model_dump(mode="json"),
            "psf": digest(self.psf),
            "optics": self.optics.model_dump(mode="json") if self.optics else None,
            "block_px": self.settings.block_px,
            "sinks": [self.formats, {name: path.name for name, path in self.targets.items()}, self.dtype],
        }
        identity = json.loads(json.dumps(identity))
        before = self.part.load_job()
        if before is not None and before.get("identity") == identity:
            self.job = before
            return
        if before is not None:
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
            "output": str(self.targets["output"]),
            "revision": "",
        }
        self.part.restart(self.job)

    def _update(self, **values: Any) -> None:
        """Write more of the job, under a new revision so that no worker goes on with the old one."""
        self.job = {**self.job, **json.loads(json.dumps(values)), "revision": uuid.uuid4().hex}
        self.part.save_job(self.job)

    def _do(self, stage: str, items: range, run: Run, message: str) -> None:
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
        from napari_deblur.steps.psf_source import resolve, restored_ndim

        psf = self.step.method.default_psf if self.psf is None else self.psf
        if isinstance(psf, PsfBasis):
            psf.save(self.part.folder / BASIS_FILE, overwrite=True)
            psf = BASIS_FILE
        if isinstance(psf, str):
            self._estimate(psf, run)
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
                    optics=self.optics,
                )
            )
            save_psf(self.part.folder, number, resolved[-1])
            if resolved[-1].shared:
                break
        self._update(psf_shared=resolved[0].shared)

    def _estimate(self, model: str, run: Run) -> None:
        """Estimate the PSF of every plane from its pixels."""
        plane = math.prod(self.image.shape[-2:])
        budget = budget_bytes(self.settings, self.executor)
        if plane * _BYTES_PER_PX > budget:
            rule = "must be given as a file, a map or optics where a single plane is larger than the memory"
            raise InvalidInputError("psf", rule, f"{model!r} for planes of {self.image.shape[-2:]} pixels")
        planes = math.prod(self.image.shape[:-2])
        if "psf_shared" not in self.job:
            self._update(psf_shared=planes == 1, n_spatial=2, blind=model)
        if self.psf is None:
            self.run.note(f"No PSF was given: it is estimated from the image with {model}.")
        self._do("estimate", range(planes), run, "PSF of plane")

    def _plan(self) -> StreamPlan:
        work = self.work
        psf, blurs = work.psf(0), work.blurs(0, Run())
        on_cpu = work.engine.device == "cpu"
        on_device = self.step.bytes_of(blurs)

        def bytes_of(shape: tuple[int, ...]) -> float:
            solving = on_device(tuple(shape[axis] for axis in work.spatial)) if on_cpu else 0.0
            size = math.prod(shape)
            one = max(_BYTES_PER_PX * size, _BYTES_WHILE_SOLVING * size + solving)
            return one + (self.executor.n_at_once - 1) * _BYTES_PER_PX * size

        if "grid" not in self.job:
            halo = [0] * len(self.image.shape)
            for axis, reach in zip(work.spatial, self.step.halo_px(psf.radii_px), strict=True):
                halo[axis] = reach
            budget = budget_bytes(self.settings, self.executor)
            grid = choose_grid(
                self.image.shape,
                tuple(halo),
                bytes_of=bytes_of,
                budget_bytes=budget,
                stored=self.image.chunks,
                block_px=self.settings.block_px,
            )
            self._check_memory(bytes_of(grid.largest_read), budget)
            reading = int(min(_SCAN_BYTES, budget / 4) / (4 + self.image.pixels.dtype.itemsize))
            scan = scan_grid(self.image.shape, self.image.chunks, largest_px=reading)
            self._update(
                grid={"shape": grid.shape, "keep": grid.keep, "halo": grid.halo},
                scan={"shape": scan.shape, "keep": scan.keep, "halo": scan.halo},
            )
        grid = self.grid
        return StreamPlan(
            len(grid),
            tuple(min(pair) for pair in zip(grid.keep, grid.shape, strict=True)),
            grid.halo,
            grid.overhead,
            bytes_of(grid.largest_read),
            self._output_bytes(),
            len(self.part.finished("deblur")),
        )

    def _output_bytes(self) -> float:
        """Return the size of the results before compression, pyramids included."""
        per_px = (
            np.dtype(self.dtype_of(name)).itemsize * (4 / 3 if is_zarr(kind) else 1)
            for name, kind in self.formats.items()
        )
        return self.image.size * sum(per_px)

    def _check_memory(self, need: float, budget: float) -> None:
        """Refuse, or where the user set no limit remark, that not even the smallest block fits."""
        if need <= budget or self.settings.block_px is not None:
            return
        if self.settings.memory_gb is not None:
            least = self.settings.memory_gb * need / budget
            rule = f"must be at least {least:.2g} for the smallest blocks of this image and PSF"
            raise InvalidInputError("memory_gb", rule, self.settings.memory_gb)
        self.run.note(
            f"Even the smallest blocks take {need / 1e9:.2g} GB where {budget / 1e9:.2g} GB are free."
        )

    def _check_space(self, plan: StreamPlan) -> None:
        """Refuse before the work what cannot fit on the disk."""
        free = shutil.disk_usage(self.targets["output"].parent).free
        need = plan.output_bytes * (1 - plan.n_done / max(plan.n_blocks, 1))
        if free >= need or "sinks" in self.job:
            return
        text = f"{need / 1e9:.3g} GB are needed where {free / 1e9:.3g} GB are free"
        if all(is_zarr(kind) for kind in self.formats.values()):  # compressed, by how much nobody knows
            self.run.note(f"The disk may become full: before compression {text}.")
            return
        path = self.targets["output"]
        raise OutputError(f"output must lie on a disk with enough room ({text}); received {str(path)!r}")

    def _scan(self, run: Run) -> None:
        self._do("scan", range(len(self.work.grid("scan"))), run, "reading")
        if "scale" in self.job:
            return
        seen = Seen.of(self.part.finished("scan").values())
        lows, highs = seen.lows, seen.highs
        offset = np.float32(self.step.camera_offset)
        if lows.min() == highs.max():
            rule = "must not be constant, there is nothing to restore"
            raise InvalidInputError("image", rule, f"{float(lows.min()):g} everywhere")
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
        self._do("settle", range(count), run, "settling")
        methods = [entry["method"] for _, entry in sorted(self.part.finished("settle").items())]
        alike = all(method == methods[0] for method in methods)
        self._update(settled=methods[:1] if alike else methods)
