"""Map how the PSF varies over the field of view, from the image alone."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from napari_deblur.core.errors import InvalidInputError, UntellableError
from napari_deblur.core.image import FloatArray, Image, as_image
from napari_deblur.core.params import Param
from napari_deblur.core.record import Record
from napari_deblur.core.run import Run
from napari_deblur.optics.noise_floor import noise_floor
from napari_deblur.optics.psf import DEFAULT_CUTOFF_CYCLES_PER_PX, family
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.base import Step, describe_input
from napari_deblur.steps.psf_fill import fill_invalid
from napari_deblur.steps.psf_limits import (
    LARGEST_SATURATED_SHARE,
    MOST_DETAIL_BEYOND,
    confidence,
    detail_beyond_cutoff,
    note_limits,
    saturated_share,
)
from napari_deblur.steps.psf_reading import PatchGrid, Reader, Reading, resample
from napari_deblur.steps.psf_source import check_sizes

if TYPE_CHECKING:
    from napari_deblur.engine.engine import Engine

VIEWS = 4
"""The patch, its transpose, and both mirrored along y: on held-out micrographs as good as all eight views."""
# Small planes of a stack are read together.
_PIXELS_AT_ONCE = 1024**2
# Cut-offs closer than this are the same: resampling would cost more than it corrects.
_SAME_CUTOFF = 0.02
# Beyond this cut-off (cycles per pixel) the camera has lost more than half of what the optics pass.
_LARGEST_CUTOFF = 0.5


class EstimatePsfMap(Step):
    """Read the PSF's parameters off overlapping patches with a trained network."""

    kind: Literal["estimate-psf-map"] = "estimate-psf-map"
    title: ClassVar[str] = "PSF map"

    model: Literal["gaussian-1", "gaussian-2", "zernike-1", "zernike-2", "zernike-3"] = Param(
        "zernike-3",
        title="Model",
        help="gaussian-1 and -2: one width, or those along y and x; zernike-1: defocus; -2: astigmatism; "
        "-3: both, needed for depth.",
    )
    stride_px: int = Param(
        64, ge=8, le=1024, step=8, title="Stride", help="Distance between neighbouring patches.", unit="px"
    )
    one_psf: bool = Param(
        False,
        title="One PSF",
        help="Read all patches as one PSF of the whole field: more accurate where the blur does not change.",
    )
    average_views: bool = Param(
        True,
        title="Average views",
        help="Read each patch in four views, mirrored and turned: more accurate, four times slower.",
        advanced=True,
    )
    least_validity: float = Param(
        0.5,
        ge=0,
        le=1,
        step=0.05,
        title="Least validity",
        help="Patches whose probability of holding enough texture is lower are filled from their neighbours.",
        advanced=True,
    )

    def run(
        self, image: Image, *, engine: Engine, run: Run | None = None, optics: Optics | None = None
    ) -> PsfMap | list[PsfMap]:
        """Estimate one map per plane.

        Parameters
        ----------
        image : Image, shape (…, y, x)
            At least one patch (128 pixels at the network's pixel scale) high and wide.
        engine : Engine
        run : Run, optional
        optics : Optics, optional
            Brings the image to the cut-off that the network was trained for; without it that cut-off is
            assumed and noted.

        Returns
        -------
        PsfMap, or a list of them over the flattened leading axes of a stack

        Raises
        ------
        InvalidInputError
            If the image breaks a rule or holds no texture anywhere, or the optics do not fit it.
        """
        run = run or Run()
        image = as_image(image)
        with engine.job(run):
            maps = self._maps(image, engine, run, optics)
        return maps if image.data.ndim > 2 else maps[0]

    def estimate(self, image: Image, *, engine: Engine, run: Run, optics: Optics | None = None) -> PsfMap:
        """Estimate the map of one plane ``(y, x)`` inside a job that is already held."""
        return self._maps(as_image(image), engine, run, optics)[0]

    def _maps(self, image: Image, engine: Engine, run: Run, optics: Optics | None) -> list[PsfMap]:
        """Return one map per plane; a plane without texture gets that of the nearest plane with some."""
        net, card = engine.network(self.model)
        if optics is not None:
            check_sizes(optics, image, 2)
        zoom, cutoff = self._zoom(card, optics, run)
        # What was cut off below zero belongs to the noise, which tells sharp from blurred.
        planes = image.with_data(image.unclipped).planes()
        patch = int(card["config"]["patch_px"])
        grid = PatchGrid.over(resample(planes[0], zoom).shape, patch, self.stride_px, zoom, image.shape_yx)
        read = Reader(net, grid, VIEWS if self.average_views else 1, engine.device)
        found: list[PsfMap | None] = []
        seconds: list[float] = []
        at_once = max(1, _PIXELS_AT_ONCE // (grid.shape[0] * grid.shape[1]))
        for start in range(0, len(planes), at_once):
            started = time.perf_counter()
            chunk = planes[start : start + at_once]
            part = run.part(start, start + len(chunk), len(planes))
            readings = read.planes([_as_read(plane, zoom, run) for plane in chunk], part)
            found += [
                self._map(plane, reading, read, image, run, cutoff)
                for plane, reading in zip(chunk, readings, strict=True)
            ]
            seconds += [(time.perf_counter() - started) / len(chunk)] * len(chunk)
        about: dict[str, Any] = {
            "step": self.model_dump(mode="json"),
            "device": engine.describe(),
            "input": describe_input(image) | ({"optics": optics.model_dump(mode="json")} if optics else {}),
            "weights": {self.model: str(card["sha256"])},
        }
        maps = without_gaps(found, run)
        return [
            replace(one, record=_record(one, spent, zoom, run, about).to_dict())
            for one, spent in zip(maps, seconds, strict=True)
        ]

    def _map(
        self, plane: FloatArray, reading: Reading, read: Reader, image: Image, run: Run, cutoff: float
    ) -> PsfMap | None:
        """Return the map of one plane without its record; None if nothing in it can be told."""
        grid = read.grid
        tops, lefts = ((starts / grid.zoom).tolist() for starts in (grid.rows, grid.cols))
        saturated = saturated_share(plane, tops, lefts, grid.patch_px / grid.zoom)
        valid = (reading.validity >= self.least_validity) & (saturated <= LARGEST_SATURATED_SHARE)
        if saturated.max() > 0.1 * LARGEST_SATURATED_SHARE:
            run.note(
                "Part of the image is saturated: patches with over "
                f"{LARGEST_SATURATED_SHARE:.0%} of such pixels count as invalid."
            )
        if not valid.any():
            return None
        chosen = family(self.model)
        # Of an enlarged image, whose noise falls too, detail and noise are not told apart.
        beyond = chosen.needs_cutoff and detail_beyond_cutoff(plane, cutoff) > MOST_DETAIL_BEYOND
        if beyond and noise_floor(plane) is None:
            run.note(
                f"The image has detail that optics with NA · pixel / wavelength = {cutoff:.3g} cycles per "
                "pixel cannot pass: the optics are others, or it was sharpened or compressed, or is no "
                "micrograph. The map is not to be trusted."
            )
        trusted, centers = saturated <= LARGEST_SATURATED_SHARE, grid.centers_px()
        if self.one_psf:
            reading, centers = read.together(reading, valid), (centers[:1, :1] + centers[-1:, -1:]) / 2
            valid = trusted = np.ones((1, 1), bool)
        trust = confidence(self.model, reading.errors, reading.validity) * trusted
        trust = note_limits(self.model, reading.values, reading.errors, valid, trust, run)
        return PsfMap.from_parameters(
            self.model,
            fill_invalid(reading.values, valid, chosen.parameter_names, chosen.axis_period_rad),
            centers_px=centers,
            image_shape=image.shape_yx,
            valid=valid,
            confidence=trust,
            predicted_error=reading.errors,
            signed_defocus_waves=reading.signed,
            cutoff_cycles_per_px=cutoff,
            pixel_size_um=image.pixel_size_um,
        )

    def _zoom(self, card: dict[str, Any], optics: Optics | None, run: Run) -> tuple[float, float]:
        """Return the factor that brings the image to the network's cut-off, and the image's own cut-off."""
        if not family(self.model).needs_cutoff:
            return 1.0, DEFAULT_CUTOFF_CYCLES_PER_PX
        trained = float(card["cutoff_cycles_per_px"])
        if optics is None:
            run.note(f"No optics given: NA · pixel / wavelength = {trained:g} cycles per pixel is assumed.")
            return 1.0, trained
        own = optics.cutoff_cycles_per_px
        if own > _LARGEST_CUTOFF:
            rule = f"must sample the optics: NA · pixel / wavelength at most {_LARGEST_CUTOFF}"
            raise InvalidInputError("pixel_size_um", rule, f"{own:.3g} cycles per pixel")
        zoom = own / trained
        if abs(zoom - 1) < _SAME_CUTOFF:
            return 1.0, trained
        if zoom > 1:
            run.note(
                f"Outside the training range: NA · pixel / wavelength is {own:.3g} cycles per pixel and the "
                f"network was trained at {trained:g}; interpolating the image brings nothing back that its "
                "pixels lost."
            )
        return zoom, own


def _as_read(plane: FloatArray, zoom: float, run: Run) -> FloatArray:
    """Return a plane as a network knows images: at its scale, with white noise."""
    scaled = resample(plane, zoom)
    floor = noise_floor(scaled)
    if floor is None:
        return scaled
    run.note(
        "The image was enlarged: its noise stops short of the finest detail that its pixels could hold. "
        "Noise of the same strength was added there to what the network reads, or it would take the grain "
        "for detail."
    )
    return floor.filled(scaled, run.seed)


def without_gaps(found: list[PsfMap | None], run: Run) -> list[PsfMap]:
    """Give planes without a map that of the nearest one, nowhere valid."""
    known = [index for index, one in enumerate(found) if one is not None]
    if not known:
        raise UntellableError(
            "image",
            "must hold texture that is not saturated somewhere, to tell its PSF",
            "no valid patch (no texture, too much noise, or blur of another kind, such as shake), so no map",
        )
    missing = [index for index, one in enumerate(found) if one is None]
    if missing:
        planes = ", ".join(str(index) for index in missing[:8]) + (", …" if len(missing) > 8 else "")
        run.note(f"Planes without any valid patch take the map of the nearest other plane: {planes}.")
    maps = []
    for index, one in enumerate(found):
        near = found[min(known, key=lambda other: abs(other - index))]
        assert near is not None
        if one is None:
            nowhere, none = np.zeros_like(near.valid), np.zeros_like(near.confidence)
            maps.append(replace(near, valid=nowhere, confidence=none))
        else:
            maps.append(one)
    return maps


def _record(psf_map: PsfMap, seconds: float, zoom: float, run: Run, about: dict[str, Any]) -> Record:
    known = psf_map.confidence[psf_map.valid]
    facts = {
        "valid_patches": int(psf_map.valid.sum()),
        "patches": int(psf_map.valid.size),
        "median_confidence": round(float(np.median(known)), 3) if known.size else 0.0,
        "zoom": round(zoom, 4),
    }
    return Record(seconds=round(seconds, 3), facts=facts, notes=list(run.notes), **about)
