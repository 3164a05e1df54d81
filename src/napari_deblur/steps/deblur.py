"""Deblur an image with a method and a PSF, plane by plane or volume by volume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import SerializeAsAny, field_validator

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image, as_image
from napari_deblur.core.params import Param
from napari_deblur.core.run import Run
from napari_deblur.methods.base import Method, make_method
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.base import Step
from napari_deblur.steps.deblur_job import DeblurJob
from napari_deblur.steps.deblur_result import DeblurResult
from napari_deblur.steps.plane_psf import BlurFactory
from napari_deblur.steps.psf_rules import BlindPsf, PsfSource, restored_ndim

if TYPE_CHECKING:
    from napari_deblur.engine.engine import Engine
    from napari_deblur.engine.plan import MemoryPlan

__all__ = ["Deblur", "DeblurResult"]

# The image, the result and the image blurred again; then, for one plane or volume at a time, the image in the
# method's unit, the two results with their blend weights, and the residual.
_WHOLE_COPIES, _BLOCK_COPIES = 3, 6


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
            job = DeblurJob(self, image, engine, run, restored_ndim(psf, image, self.method))
            job.took_background = background is not None
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
        n_blocks, at_once = image.data.size // math.prod(shape), 1
        if (
            tiles.n_tiles == 1
            and self.takes_several(image)
            and not isinstance(psf, str | BlindPsf | list | None)
        ):
            at_once = min(n_blocks, engine.at_once(shape, self.bytes_of(blurs, n_kernels)))
        pixels = _WHOLE_COPIES * image.data.size + _BLOCK_COPIES * at_once * math.prod(shape)
        return MemoryPlan(tiles, n_blocks, 4 * pixels, engine.describe(), at_once)

    def takes_several(self, image: Image) -> bool:
        """Return whether planes or volumes of one PSF go together: not where each has its own pedestal."""
        return self.method.takes_several and self.method.settles_in_solve and image.below is None

    def halo_px(self, radii_px: tuple[int, ...]) -> tuple[int, ...]:
        """Return what the method reads around a tile along each axis."""
        return tuple(self.method.halo_px(radius) for radius in radii_px)

    def bytes_of(
        self, blurs: BlurFactory, n_kernels: int | None = None
    ) -> Callable[[tuple[int, ...]], float]:
        """Return the function from a window's shape to the memory that it takes on the device."""
        per_voxel = self.method.bytes_per_px(n_kernels or blurs.n_kernels)
        return lambda shape: per_voxel * blurs.grid_size(shape)
