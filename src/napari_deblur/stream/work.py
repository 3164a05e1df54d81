"""A streamed job as a worker sees it: its files open, its PSFs loaded."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import FloatArray
from napari_deblur.core.run import Run
from napari_deblur.io.lazy import LazyImage, Region, open_image
from napari_deblur.methods.base import Method, make_method
from napari_deblur.steps.psf_rules import BlindPsf
from napari_deblur.stream.grid import Grid

if TYPE_CHECKING:
    from napari_deblur.engine.engine import Engine
    from napari_deblur.io.tiff_writer import TiledTiffWriter
    from napari_deblur.io.zarr_writer import ZarrWriter
    from napari_deblur.optics.psf_basis import PsfBasis
    from napari_deblur.steps.deblur import Deblur
    from napari_deblur.steps.plane_psf import BlurFactory, PlanePsf

BASIS_FILE = "psf-basis.npz"
"""Where a job keeps the PSF basis in which the blur of every plane is found."""


class Work:
    """A job as a worker sees it: its files open, its PSFs loaded.

    Parameters
    ----------
    folder : Path
        Where the job lies; see `napari_deblur.stream.part`.
    job : dict
        See `napari_deblur.stream.job`.
    """

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self.folder, self.job = folder, job
        self.output = Path(job["output"])
        self._blurs: dict[int, BlurFactory] = {}
        self._writers: dict[str, TiledTiffWriter | ZarrWriter] = {}

    @cached_property
    def image(self) -> LazyImage:
        """The image, opened; refused if it is no longer the one that the job was begun on."""
        source = self.job["source"]
        image = open_image(source["path"], axes=source["axes"], series=source["series"])
        absent, size = self.job.get("absent"), source["pixel_size_um"]
        return replace(
            image,
            pixel_size_um=tuple(size) if size else None,
            z_step_um=source["z_step_um"],
            stored_absent=None if absent is None else frozenset(absent),
        )

    def check_unchanged(self) -> None:
        """Refuse a file that was replaced since the job began.

        Raises
        ------
        InvalidInputError
        """
        if self.image.fingerprint() != self.job["source"]["fingerprint"]:
            rule = "must stay as it is until the end of the run, but was changed"
            raise InvalidInputError("image", rule, repr(self.job["source"]["path"]))

    def grid(self, name: str = "grid") -> Grid:
        """Return the blocks, or with the name ``scan`` those of the first pass."""
        return Grid(**{key: tuple(value) for key, value in self.job[name].items()})

    @cached_property
    def step(self) -> Deblur:
        """The step, as declared."""
        from napari_deblur.steps.deblur import Deblur

        return Deblur(**self.job["step"])

    @property
    def blind(self) -> BlindPsf | PsfBasis:
        """What estimates the PSF of every plane: a model, or the basis that was saved beside the job."""
        if self.job["blind"] != BASIS_FILE:
            return BlindPsf(str(self.job["blind"]), bool(self.job.get("one_psf")))
        from napari_deblur.optics.psf_basis import PsfBasis

        return PsfBasis.load(self.folder / BASIS_FILE)

    @property
    def engine(self) -> Engine:
        """The process's engine."""
        from napari_deblur.engine.shared import get_engine

        return get_engine()

    @cached_property
    def spatial(self) -> tuple[int, ...]:
        """Numbers of the axes that are restored together: y and x, or z, y and x."""
        letters = "zyx"[-int(self.job["n_spatial"]) :]
        return tuple(self.image.axes.index(letter) for letter in letters)

    @cached_property
    def lead(self) -> tuple[int, ...]:
        """Numbers of the other axes."""
        return tuple(axis for axis in range(len(self.image.shape)) if axis not in self.spatial)

    @property
    def n_volumes(self) -> int:
        """How many planes or volumes are restored each for itself."""
        return math.prod(self.image.shape[axis] for axis in self.lead)

    @property
    def restored(self) -> list[int]:
        """Numbers of the planes or volumes that are restored: all but those that are known to be constant."""
        constant = set(self.job.get("constant", ()))
        return [number for number in range(self.n_volumes) if number not in constant]

    @property
    def first(self) -> int:
        """Number of the first of them, which has a PSF in any case."""
        return self.restored[0]

    def arranged(self, data: FloatArray) -> FloatArray:
        """Return a view of a block with the axes that are restored together last."""
        return data.transpose((*self.lead, *self.spatial))

    def volumes(self, region: Region) -> list[tuple[int, tuple[int, ...]]]:
        """Return the planes or volumes of a block: their numbers, and their places in the arranged block."""
        spans = [range(region[axis].start, region[axis].stop) for axis in self.lead]
        if not spans:
            return [(0, ())]
        shape = [self.image.shape[axis] for axis in self.lead]
        numbers = np.ravel_multi_index(np.ix_(*spans), shape)
        return [(int(number), place) for place, number in np.ndenumerate(numbers)]

    def position(self, volume: int, point: list[int]) -> tuple[int, ...]:
        """Return where a point of a plane or volume lies in the image."""
        shape = [self.image.shape[axis] for axis in self.lead]
        place = [0] * len(self.image.shape)
        for axis, index in zip(self.lead, np.unravel_index(volume, shape) if shape else (), strict=True):
            place[axis] = int(index)
        for axis, inside in zip(self.spatial, point, strict=True):
            place[axis] = inside
        return tuple(place)

    def read_volume(self, volume: int, window: Region) -> FloatArray:
        """Read a part of one plane or volume, its axes in the order z, y, x."""
        shape = [self.image.shape[axis] for axis in self.lead]
        place = np.unravel_index(volume, shape) if shape else ()
        region = [slice(0, 1)] * len(self.image.shape)
        for axis, index in zip(self.lead, place, strict=True):
            region[axis] = slice(int(index), int(index) + 1)
        for axis, part in zip(self.spatial, window, strict=True):
            region[axis] = part
        pixels = self.arranged(self.image.read(tuple(region)))
        return np.ascontiguousarray(pixels.reshape([part.stop - part.start for part in window]))

    def psf(self, volume: int) -> PlanePsf:
        """Return the PSF of a plane or volume."""
        return _load_psf(self.folder, 0 if self.job["psf_shared"] else volume)

    def blurs(self, volume: int, run: Run) -> BlurFactory:
        """Return what makes the blur of any window of a plane or volume."""
        key = 0 if self.job["psf_shared"] else volume
        if key not in self._blurs:
            self._blurs.clear()
            self._blurs[key] = self.psf(volume).blurs(self.step.eigen_tolerance, self.engine.device, run)
        return self._blurs[key]

    def scaled(self, pixels: FloatArray) -> FloatArray:
        """Bring pixels to the range that methods expect, by the whole image's scale."""
        y = (pixels - np.float32(self.step.camera_offset)) / np.float32(self.job["scale"])
        return np.maximum(y, 0) if self.step.method.non_negative else y

    def method(self, volume: int) -> Method:
        """Return the method as it was settled on a plane or volume."""
        settled = self.job["settled"]
        return make_method(dict(settled[0 if len(settled) == 1 else volume]))

    def writer(self, name: str) -> TiledTiffWriter | ZarrWriter:
        """Return what writes one of the results, ``output`` or ``residual``."""
        from napari_deblur.io.tiff_writer import TiledTiffWriter
        from napari_deblur.io.zarr_writer import ZarrWriter

        sink = self.job["sinks"][name]
        path = self.folder / sink["file"]
        if name not in self._writers:
            tiff = sink["format"] == "ome-tiff"
            self._writers[name] = TiledTiffWriter(path) if tiff else ZarrWriter(path, self.image.axes)
        return self._writers[name]


def _load_psf(folder: Path, number: int) -> PlanePsf:
    from napari_deblur.optics.psf_map import PsfMap
    from napari_deblur.steps.plane_psf import PlanePsf

    about = json.loads((folder / f"psf_{number:05d}.json").read_text(encoding="utf-8"))
    kernel = folder / f"psf_{number:05d}.npy"
    psf = np.load(kernel) if kernel.exists() else PsfMap.load(folder / f"psf_{number:05d}.npz")
    return PlanePsf(psf, **{**about, "spacing": tuple(about["spacing"])})


def save_psf(folder: Path, number: int, psf: PlanePsf) -> None:
    """Keep the PSF of a plane or volume beside the job."""
    from napari_deblur.core.atomic import atomic_path
    from napari_deblur.optics.psf_map import PsfMap

    if isinstance(psf.psf, PsfMap):
        psf.psf.save(folder / f"psf_{number:05d}.npz", overwrite=True)
    else:
        with atomic_path(folder / f"psf_{number:05d}.npy", overwrite=True) as temporary:
            np.save(temporary, psf.psf, allow_pickle=False)
    about = {field.name: getattr(psf, field.name) for field in fields(psf) if field.name != "psf"}
    with atomic_path(folder / f"psf_{number:05d}.json", overwrite=True) as temporary:
        temporary.write_text(json.dumps(about), encoding="utf-8")
