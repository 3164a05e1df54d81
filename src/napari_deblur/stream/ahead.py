"""What a streamed run would do, found without touching the disk."""

from __future__ import annotations

import os

from napari_deblur.core.run import Run
from napari_deblur.io.lazy import LazyImage
from napari_deblur.io.numbers import Dtype
from napari_deblur.optics.psf_basis import PsfBasis
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.deblur import Deblur
from napari_deblur.steps.plane_psf import BlurFactory
from napari_deblur.steps.psf_rules import BlindPsf, PsfSource
from napari_deblur.steps.psf_source import resolve
from napari_deblur.stream.executors import Executor, here
from napari_deblur.stream.grid import Grid
from napari_deblur.stream.part import Part
from napari_deblur.stream.plan import Streaming, StreamPlan
from napari_deblur.stream.sizes import Sizes
from napari_deblur.stream.wanted import Wanted


def plan_file(
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
) -> StreamPlan:
    """Tell what `napari_deblur.stream.run.deblur_file` would do with the same arguments.

    Nothing is written, and what an earlier run has left is only looked at. PSFs that the run would estimate
    are not: their usual size counts, and a note says so.

    Raises
    ------
    InvalidInputError, OutputError
        Where that run would be refused from the start.
    """
    from napari_deblur.engine.shared import get_engine

    run, engine = run or Run(), get_engine()
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
    sizes = Sizes(wanted, executor or here(), _blurs(wanted, run), on_cpu=engine.device == "cpu")
    part = Part(wanted.targets["output"])
    job = part.load_job()
    if job is not None:
        otherwise = wanted.begun_otherwise(part, job.get("identity", {}), wanted.identity())
        if not otherwise and "grid" in job:
            grid = Grid(**{key: tuple(value) for key, value in job["grid"].items()})
            return sizes.plan(grid, len(part.finished("deblur")))
        if otherwise and any(part.done.values()):
            run.note(f"{otherwise}: they are discarded with overwrite, and else the run is refused.")
    return sizes.plan(sizes.choose(run), 0)


def _blurs(wanted: Wanted, run: Run) -> BlurFactory:
    """Return the blur of the first plane or volume, or of the usual size where it would be estimated."""
    from napari_deblur.engine.shared import get_engine
    from napari_deblur.steps.deblur_plan import planned_blurs

    psf, method, stub, engine = wanted.psf, wanted.step.method, wanted.image.stub(), get_engine()
    if isinstance(psf, str | BlindPsf | PsfBasis) or (psf is None and method.default_psf is not None):
        run.note("The PSF is estimated by the run: halo and memory are those of PSFs of the usual size.")
        return planned_blurs(wanted.step, stub, psf, engine)
    found = resolve(psf, stub, 0, method=method, engine=engine, run=run, optics=wanted.optics)
    return found.blurs(wanted.step.eigen_tolerance, engine.device, Run())
