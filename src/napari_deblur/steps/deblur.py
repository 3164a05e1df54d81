"""Deblur an image with a method and a PSF, plane by plane."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import SerializeAsAny, field_validator

from napari_deblur.core.errors import CancelledError, InvalidInputError
from napari_deblur.core.image import FloatArray, Image, as_image
from napari_deblur.core.params import Param
from napari_deblur.core.record import Record
from napari_deblur.core.run import Run
from napari_deblur.methods.base import Method, make_method
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.base import Step, describe_input
from napari_deblur.steps.psf_source import PlanePsf, PsfSource, resolve

if TYPE_CHECKING:
    from torch import Tensor

    from napari_deblur.blur.base import Blur
    from napari_deblur.engine.engine import Engine
    from napari_deblur.engine.tiling import Window

# Data-dependent choices are made on at most this much of a plane, around its centre.
_SETTLE_PX = 1024


@dataclass(frozen=True, eq=False)
class DeblurResult:
    """What deblurring gives.

    Attributes
    ----------
    image : Image
        Same shape, scale and offset as the input, float32.
    psf : ndarray or PsfMap or list of PsfMap
        What was used; a list where each plane has its own estimate.
    residual : Image
        Input minus the result blurred again: what the result does not explain. Structure in it is a warning.
    record : Record
    partial : bool
        Whether the run was cancelled and this is the best result until then.
    """

    image: Image
    psf: NDArray[np.float32] | PsfMap | list[PsfMap]
    residual: Image
    record: Record
    partial: bool = False


class Deblur(Step):
    """Restore an image with one method and one PSF, a PSF map, or a blind estimate."""

    kind: Literal["deblur"] = "deblur"
    title: ClassVar[str] = "Deblur"

    method: SerializeAsAny[Method]
    camera_offset: float = Param(
        0.0,
        title="Camera offset",
        step=1.0,
        help="Grey value of the camera without light; it is taken off before and added back after.",
        unit="grey values",
    )
    eigen_tolerance: float = Param(
        0.03,
        gt=0,
        le=0.5,
        step=0.005,
        title="PSF map tolerance",
        help="Largest relative error allowed when a PSF map is compressed to a few eigen-PSFs.",
        advanced=True,
    )
    tile_px: int | None = Param(
        None,
        ge=64,
        le=65536,
        title="Tile",
        help="Side length of a tile; chosen from the free memory when not given.",
        unit="px",
        advanced=True,
    )
    seed: int = Param(
        0, ge=0, le=2**31 - 1, title="Seed", help="Seed of the run's random generator.", advanced=True
    )

    @field_validator("method", mode="before")
    @classmethod
    def _method(cls, value: Any) -> Method:
        return make_method(value)

    def run(
        self,
        image: Image,
        psf: PsfSource = None,
        *,
        engine: Engine,
        run: Run | None = None,
        optics: Optics | None = None,
    ) -> DeblurResult:
        """Deblur every plane of an image.

        Parameters
        ----------
        image : Image, shape (…, y, x)
        psf : ndarray or PsfMap or list of PsfMap or Optics or str or None
            A kernel, a map (or one per plane), optics to compute the PSF from, the id of a model for a blind
            estimate, or None for the method's own default.
        engine : Engine
        run : Run, optional
            Progress and cancel; its seed is replaced by this step's.
        optics : Optics, optional
            Helps a blind estimate; without it the default cut-off is assumed.

        Raises
        ------
        InvalidInputError
            If the image or the PSF breaks a rule.
        CancelledError
            If cancelled before there was anything to keep.
        """
        run = run or Run()
        run.seed = self.seed
        image = as_image(image)
        started = time.perf_counter()
        with engine.job(run):
            job = _Job(self, image, engine, run)
            job.compute(psf, optics)
        return job.result(started)


class _Job:
    """One run over all planes; keeps what is done so that a cancel loses nothing."""

    def __init__(self, step: Deblur, image: Image, engine: Engine, run: Run) -> None:
        self.step, self.image, self.engine, self.run = step, image, engine, run
        self.planes = image.planes()
        self.restored = self.planes.copy()
        self.reblurred = self.planes.copy()
        self.scale = float(np.abs(self.planes - np.float32(step.camera_offset)).max()) or 1.0
        self.partial = False
        self.psfs: list[PlanePsf] = []

    def compute(self, psf: PsfSource, optics: Optics | None) -> None:
        shared: PlanePsf | None = None
        count = len(self.planes)
        for index, plane in enumerate(self.planes):
            part = self.run.part(index, index + 1, count)
            if float(plane.min()) == float(plane.max()):
                self.run.note(f"Plane {index} is constant and was left as it is.")
                continue
            try:
                source = shared or resolve(
                    psf,
                    self.image,
                    index,
                    method=self.step.method,
                    engine=self.engine,
                    run=part,
                    optics=optics,
                )
                shared = source if source.shared else None
                self.psfs.append(source)
                self._one(index, plane, source, part)
            except CancelledError as error:
                if index == 0 and error.partial is None:
                    raise
                self.partial = True
                self.run.note(f"Cancelled in plane {index + 1} of {count}; the rest is as it came in.")
                return

    def _one(self, index: int, plane: FloatArray, source: PlanePsf, run: Run) -> None:
        y = (plane - np.float32(self.step.camera_offset)) / np.float32(self.scale)
        if self.step.method.non_negative and float(y.min()) < 0:
            share = float(np.mean(y < 0))
            run.note(f"Values below the camera offset ({share:.1%} of the pixels) count as zero.")
            y = np.maximum(y, 0)
        blurs = source.blurs(self.step.eigen_tolerance, self.engine.device, run)
        method = self._settled(y, blurs, run)

        def compute(tile: Tensor, window: Window, part: Run) -> Tensor:
            if window.shape != y.shape and not method.tiles_agree:
                run.note(f"{method.title} was computed in tiles, which differ slightly from the whole.")
            blur = blurs(window.shape, window.origin, tile.device)
            return _with_reblurred(method, tile, blur, part)

        try:
            both = self.engine.over_tiles(
                y,
                compute,
                run,
                n_out=2,
                halo_px=method.halo_px(source.radius_px),
                bytes_per_px=method.bytes_per_px(blurs.n_kernels),
                tile_px=self.step.tile_px,
            )
        except CancelledError as error:
            if error.partial is not None:
                self._keep(index, error.partial)
            raise
        self._keep(index, both)

    def _settled(self, y: FloatArray, blurs: Any, run: Run) -> Method:
        import torch

        height, width = y.shape
        top, left = max(0, (height - _SETTLE_PX) // 2), max(0, (width - _SETTLE_PX) // 2)
        centre = np.ascontiguousarray(y[top : top + _SETTLE_PX, left : left + _SETTLE_PX])
        device = self.engine.device
        blur = blurs(centre.shape, (top, left), device)
        with torch.inference_mode():
            return self.step.method.settle(torch.from_numpy(centre).to(device), blur, run)

    def _keep(self, index: int, both: FloatArray) -> None:
        done = np.isfinite(both[0])
        back = both * np.float32(self.scale) + np.float32(self.step.camera_offset)
        self.restored[index] = np.where(done, back[0], self.planes[index])
        self.reblurred[index] = np.where(np.isfinite(both[1]), back[1], self.planes[index])

    def result(self, started: float) -> DeblurResult:
        from napari_deblur.engine.engine import elapsed_s

        step, run = self.step, self.run
        offset = np.float64(step.camera_offset)
        flux_in = float(np.sum(self.planes - offset))
        flux_out = float(np.sum(self.restored - offset))
        run.fact("flux_in", flux_in)
        run.fact("flux_out", flux_out)
        run.fact("flux_change", (flux_out - flux_in) / flux_in if flux_in else 0.0)
        residual = self.planes - self.reblurred
        run.fact("reblur_residual_rms", float(np.sqrt(np.mean(residual**2))))
        shape = self.image.data.shape
        weights: dict[str, str] = {}
        for source in self.psfs:
            weights |= source.weights
        record = Record(
            step=step.model_dump(mode="json"),
            seed=step.seed,
            device=self.engine.describe(),
            seconds=elapsed_s(started),
            input=describe_input(self.image),
            psf=self.psfs[0].description if self.psfs else {},
            weights=weights,
            facts=dict(run.facts),
            notes=list(run.notes),
            partial=self.partial,
            learned=step.method.learned,
        )
        name = f"{self.image.name} · {step.method.title}"
        maps = [source.psf for source in self.psfs if isinstance(source.psf, PsfMap)]
        return DeblurResult(
            image=self.image.with_data(self.restored.reshape(shape), name),
            psf=maps if len(maps) > 1 else self.psfs[0].psf,
            residual=self.image.with_data(residual.reshape(shape), f"{name} · residual"),
            record=record,
            partial=self.partial,
        )


def _with_reblurred(method: Method, tile: Tensor, blur: Blur, run: Run) -> Tensor:
    """Return the restored tile and the same blurred again, as ``(2, h, w)``."""
    import torch

    try:
        x = method.solve(tile, blur, run)
    except CancelledError as error:
        if error.partial is not None:
            unknown = torch.full_like(error.partial[0], float("nan"))
            error.partial = torch.stack([error.partial[0], unknown])
        raise
    restored = blur.crop(x)
    if not bool(torch.isfinite(restored).all()):
        raise InvalidInputError("psf", "must let the method converge on this image", "a result with NaN")
    return torch.stack([restored, blur.forward(x)])
