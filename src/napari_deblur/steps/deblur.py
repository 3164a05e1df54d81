"""Deblur an image with a method and a PSF, plane by plane or volume by volume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import SerializeAsAny, field_validator

from napari_deblur.core.errors import CancelledError, InvalidInputError
from napari_deblur.core.image import FloatArray, Image, as_image
from napari_deblur.core.params import Param
from napari_deblur.core.record import Record
from napari_deblur.core.run import Run
from napari_deblur.methods.base import Method, make_method, method_id
from napari_deblur.optics.noise_floor import dark_noise
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.base import Step, describe_input
from napari_deblur.steps.psf_limits import note_uncertain_psf
from napari_deblur.steps.psf_source import BlurFactory, PlanePsf, PsfSource, resolve, restored_ndim

if TYPE_CHECKING:
    from torch import Tensor

    from napari_deblur.blur.base import Blur
    from napari_deblur.engine.engine import Engine
    from napari_deblur.engine.plan import MemoryPlan
    from napari_deblur.engine.tiling import Window

# Data-dependent choices are made on at most this much of a plane or a volume, around its centre.
_SETTLE_PX = 1024
_SETTLE_VOXELS = 2**22
# Standard deviations of the dark noise by which an image is lifted where its background was taken off: what
# is still cut off below adds 3 % of one of them, and more would slow Richardson–Lucy down.
_PEDESTAL = 1.5
# The image, the result and the image blurred again; then, for one plane or volume at a time, the image in the
# method's unit, the two results with their blend weights, and the residual.
_WHOLE_COPIES, _BLOCK_COPIES = 3, 6


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
        background: Any = None,
    ) -> DeblurResult:
        """Deblur every plane of an image, or every volume where the PSF has a z axis.

        Parameters
        ----------
        image : Image, shape (…, y, x)
        psf : ndarray or Image or PsfMap or Optics or str or list or None
            A kernel, a measured PSF with its voxel size, a map (or one per plane), optics to compute the PSF
            from, the id of a model for a blind estimate, or None for the method's own default. A kernel
            ``(z, y, x)``, or optics with ``z_step_um``, restore in 3D over the z axis; others restore plane
            by plane. A list holds one per channel.
        engine : Engine
        run : Run, optional
            Progress and cancel; its seed is replaced by this step's.
        optics : Optics, optional
            Helps a blind estimate; without it the default cut-off is assumed.
        background : Image or array_like of the image's shape, optional
            Smooth light that is to be taken off, the camera's offset included. Unlike an image from which it
            was taken off before, the noise is then known to its lower end, also where there is no light.

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
        if background is not None:
            image = image.without(background)
        if image.below is not None and self.camera_offset:
            rule = "must be 0 where a background was taken off, which holds the offset"
            raise InvalidInputError("camera_offset", rule, f"{self.camera_offset:g}")
        started = time.perf_counter()
        with engine.job(run):
            job = _Job(self, image, engine, run, restored_ndim(psf, image, self.method))
            job.compute(psf, optics)
        return job.result(started)

    def plan(
        self,
        image: Image,
        psf: PsfSource = None,
        *,
        engine: Engine,
        n_kernels: int | None = None,
    ) -> MemoryPlan:
        """Tell what a run will take, without starting it.

        Parameters
        ----------
        image : Image
            Only its shape, axes and sizes count.
        psf : PsfSource
            As for `run`; maps and blind estimates count with the eigen-PSFs that most maps need.
        engine : Engine
        n_kernels : int, optional
            Number of eigen-PSFs, where a map's is known.

        Returns
        -------
        MemoryPlan

        Raises
        ------
        InvalidInputError
            If the PSF breaks a rule.
        """
        from napari_deblur.engine.plan import MemoryPlan
        from napari_deblur.steps.deblur_plan import planned_blurs

        ndim = restored_ndim(psf, image, self.method)
        shape = image.block_shape(ndim)
        blurs = planned_blurs(self, image, psf, engine)
        tiles = engine.plan(
            shape,
            halo_px=self.halo_px(blurs.margin),
            bytes_of=self.bytes_of(blurs, n_kernels),
            tile_px=self.tile_px,
        )
        n_blocks = image.data.size // math.prod(shape)
        pixels = _WHOLE_COPIES * image.data.size + _BLOCK_COPIES * math.prod(shape)
        return MemoryPlan(tiles, n_blocks, 4 * pixels, engine.describe())

    def halo_px(self, radii_px: tuple[int, ...]) -> tuple[int, ...]:
        """Return what the method reads around a tile along each axis."""
        return tuple(self.method.halo_px(radius) for radius in radii_px)

    def bytes_of(
        self, blurs: BlurFactory, n_kernels: int | None = None
    ) -> Callable[[tuple[int, ...]], float]:
        """Return the function from a window's shape to the memory that it takes on the device."""
        per_voxel = self.method.bytes_per_px(n_kernels or blurs.n_kernels)
        return lambda shape: per_voxel * blurs.grid_size(shape)


class _Job:
    """One run over all planes or volumes; keeps what is done so that a cancel loses nothing."""

    def __init__(self, step: Deblur, image: Image, engine: Engine, run: Run, ndim: int) -> None:
        self.step, self.image, self.engine, self.run, self.ndim = step, image, engine, run, ndim
        self.blocks = image.with_data(image.unclipped).blocks(ndim)
        self.restored = image.blocks(ndim).copy()
        self.reblurred = self.blocks.copy()
        self.scale = float(np.abs(self.blocks - np.float32(step.camera_offset)).max()) or 1.0
        self.method = step.method.scaled(self.scale)
        self.partial = False
        self.psfs: list[PlanePsf] = []
        self.unit = "Plane" if ndim == 2 else "Volume"
        self.networks = checksums(step.method)
        run.fact("restored_in", f"{ndim}D")

    def compute(self, psf: PsfSource, optics: Optics | None) -> None:
        shared: PlanePsf | None = None
        count = len(self.blocks)
        for index, block in enumerate(self.blocks):
            part = self.run.part(index, index + 1, count)
            if float(block.min()) == float(block.max()):
                self.run.note(f"{self.unit} {index} is constant and was left as it is.")
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
                self._one(index, block, source, part)
            except CancelledError as error:
                if index == 0 and error.partial is None:
                    raise
                self.partial = True
                self.run.note(
                    f"Cancelled in {self.unit.lower()} {index + 1} of {count}; the rest is as it came in."
                )
                return

    def _one(self, index: int, block: FloatArray, source: PlanePsf, run: Run) -> None:
        y = (block - np.float32(self.step.camera_offset)) / np.float32(self.scale)
        pedestal = 0.0
        if self.image.below is not None and self.method.knows_pedestal:
            pedestal = _PEDESTAL * dark_noise(y[settle_window(y.shape)])
            run.fact("pedestal", pedestal * self.scale)
            y = np.maximum(y + np.float32(pedestal), 0)
        elif self.method.non_negative and float(y.min()) < 0:
            share = float(np.mean(y < 0))
            what = "the camera offset" if self.image.below is None else "the background"
            run.note(f"Values below {what} ({share:.1%} of the pixels) count as zero.")
            y = np.maximum(y, 0)
        if self.method.learned:
            note_uncertain_psf(source.psf, run)
        blurs = replace(source.blurs(self.step.eigen_tolerance, self.engine.device, run), pedestal=pedestal)
        settled: Method | None = None if self.method.settles_in_solve else self._settled(y, blurs, run, index)
        if settled is not None and settled.found_psf is not None:
            source = source.found(settled.found_psf, method_id(type(settled)))
            self.psfs[-1] = source
            blurs = source.blurs(self.step.eigen_tolerance, self.engine.device, run)

        def compute(tile: Tensor, window: Window, part: Run) -> Tensor:
            nonlocal settled
            whole = window.shape == y.shape
            if not whole and not self.method.tiles_agree:
                run.note(f"{self.method.title} was computed in tiles, which differ slightly from the whole.")
            if settled is None and not whole:
                settled = self._settled(y, blurs, run, index)
            blur = blurs(window.shape, window.origin, tile.device)
            return with_reblurred(settled or self.method, tile, blur, part)

        try:
            both = self.engine.over_tiles(
                y,
                compute,
                run,
                n_out=2,
                halo_px=self.step.halo_px(source.radii_px),
                bytes_of=self.step.bytes_of(blurs),
                tile_px=self.step.tile_px,
            )
        except CancelledError as error:
            if error.partial is not None:
                self._keep(index, error.partial)
            raise
        self._keep(index, both)

    def _settled(self, y: FloatArray, blurs: BlurFactory, run: Run, index: int) -> Method:
        import torch

        window = settle_window(y.shape)
        centre = np.ascontiguousarray(y[window])
        device = self.engine.device
        blur = blurs(centre.shape, tuple(span.start for span in window), device)
        try:
            with torch.inference_mode():
                return self.method.settle(torch.from_numpy(centre).to(device), blur, run)
        except CancelledError as error:
            if self.method.blind and error.partial is not None and error.partial.shape[1:] == y.shape:
                image = error.partial[0].float().cpu().numpy()
                self._keep(index, np.stack([image, np.full_like(image, np.nan)]))
            raise

    def _keep(self, index: int, both: FloatArray) -> None:
        done = np.isfinite(both[0])
        back = both * np.float32(self.scale) + np.float32(self.step.camera_offset)
        self.restored[index] = np.where(done, back[0], self.restored[index])
        self.reblurred[index] = np.where(np.isfinite(both[1]), back[1], self.blocks[index])

    def result(self, started: float) -> DeblurResult:
        from napari_deblur.engine.engine import elapsed_s

        step, run = self.step, self.run
        offset = np.float64(step.camera_offset)
        flux_in = float(np.sum(self.blocks - offset))
        flux_out = float(np.sum(self.restored - offset))
        run.fact("flux_in", flux_in)
        run.fact("flux_out", flux_out)
        run.fact("flux_change", (flux_out - flux_in) / flux_in if flux_in else 0.0)
        residual = self.blocks - self.reblurred
        run.fact("reblur_residual_rms", float(np.sqrt(np.mean(residual**2))))
        weights: dict[str, str] = {}
        for source in self.psfs:
            weights |= source.weights
        weights |= self.networks
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
        name = f"{self.image.name} · {step.method.label}"
        maps = [source.psf for source in self.psfs if isinstance(source.psf, PsfMap)]
        return DeblurResult(
            image=self.image.with_data(self.image.from_blocks(self.restored), name),
            psf=maps if len(maps) > 1 else self.psfs[0].psf,
            residual=self.image.with_data(self.image.from_blocks(residual), f"{name} · residual"),
            record=record,
            partial=self.partial,
        )


def checksums(method: Method) -> dict[str, str]:
    """Return the sha256 of the trained networks that make a method's pixels, by id.

    Raises
    ------
    UnknownNameError
        If one is not installed: known before a PSF is estimated.
    """
    from napari_deblur.nets.weights import find_model

    return {id: find_model(id).sha256 for id in method.network_ids()}


def settle_window(shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the central part of a plane or a volume on which data-dependent choices are made."""
    depth = shape[0] if len(shape) == 3 else 1
    side = max(64, min(_SETTLE_PX, int((_SETTLE_VOXELS / depth) ** 0.5)))
    spans = []
    for axis, size in enumerate(shape):
        most = size if axis < len(shape) - 2 else side
        start = max(0, (size - most) // 2)
        spans.append(slice(start, min(start + most, size)))
    return tuple(spans)


def with_reblurred(method: Method, tile: Tensor, blur: Blur, run: Run) -> Tensor:
    """Return the restored tile and the same blurred again, as ``(2, …)``."""
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
