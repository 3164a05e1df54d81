"""Depth from a PSF map: on which side of focus, how far, and how sure."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.params import Param
from napari_deblur.core.record import Record
from napari_deblur.core.run import Run
from napari_deblur.steps.base import Step
from napari_deblur.steps.calibration import DepthCalibration
from napari_deblur.steps.defocus import DefocusSignal, defocus_signal
from napari_deblur.steps.depth_result import DepthResult, first_plane
from napari_deblur.steps.surface import Surface
from napari_deblur.steps.surface_fit import nearest_over_image, over_image, robust_spread, smooth_surface

if TYPE_CHECKING:
    from napari_deblur.optics.psf_map import PsfMap
    from napari_deblur.optics.settings import Optics

__all__ = ["DepthResult", "EstimateDepth", "Surface"]

_OUTLIER_FLOOR = 0.01
_SMOOTHING_SPACINGS = 1.5
_SMOOTHING_PATCHES = 0.75


class EstimateDepth(Step):
    """Read depth from a PSF map taken with a cylinder lens, and smooth it where it can be trusted."""

    kind: Literal["estimate-depth"] = "estimate-depth"
    title: ClassVar[str] = "Depth"

    rule: Literal["astigmatism", "paper"] = Param(
        "astigmatism",
        title="Rule",
        help="From defocus and the astigmatism's axis against the lens's, or as published (lens at 45°).",
    )
    axis_deg: float | None = Param(
        None,
        ge=0,
        le=180,
        step=1.0,
        title="Lens axis",
        help="Axis of astigmatism beyond focus; from the calibration, or else from the map, when not given.",
        unit="°",
        advanced=True,
        shown_if={"rule": ("astigmatism",)},
    )
    smoothing_px: float | None = Param(
        None,
        ge=0,
        le=10000,
        step=8.0,
        title="Smoothing",
        help="Reach of the local planes that smooth; three quarters of a patch when not given, 0: none.",
        unit="px",
    )
    min_confidence: float = Param(
        0.05,
        ge=0,
        le=1,
        step=0.05,
        title="Least confidence",
        help="Places that are less sure are left out.",
        advanced=True,
    )
    fill: bool = Param(
        False,
        title="Fill gaps",
        help="Continue the surface over places left out; their confidence stays 0.",
    )

    def run(
        self,
        psf_map: PsfMap,
        *,
        calibration: DepthCalibration | None = None,
        optics: Optics | None = None,
        image: Image | ArrayLike | None = None,
        run: Run | None = None,
    ) -> DepthResult:
        """Turn a PSF map into depth.

        Parameters
        ----------
        psf_map : PsfMap
            Of the family zernike-3, or gaussian-2 with the cylinder along x or y.
        calibration : DepthCalibration, optional
            Gives µm; without it the depth is relative, and its sign is open unless ``axis_deg`` is given.
        optics : Optics, optional
            With ``axis_deg`` they give µm by theory where there is no calibration, for zernike-3 maps.
        image : Image or array_like, shape (…, y, x), optional
            Intensities for the surface, and the pixel size if the map has none.
        run : Run, optional
            Progress and cancel.

        Raises
        ------
        InvalidInputError
            If the map holds no side of focus, has no valid position, or does not fit the calibration.
        """
        run = run or Run()
        started = time.perf_counter()
        run.step(0, 3, "reading defocus")
        plane = None if image is None else first_plane(image)
        if plane is not None and plane.shape != psf_map.image_shape:
            rule = f"must have the shape {psf_map.image_shape} that the map was made for"
            raise InvalidInputError("image", rule, f"shape {plane.shape}")
        if calibration is None and optics is not None and self.axis_deg is not None:
            calibration = self._theory(psf_map, optics, run)
        if calibration is not None:
            _check_kind(calibration)
            calibration.check_fits(psf_map, self.rule)
        signal = defocus_signal(psf_map, self.rule)
        quantity = signal.along(self._axis_rad(signal, psf_map, calibration, run))
        depth = quantity
        if calibration is not None:
            depth, spread = calibration.depths_of(psf_map, quantity)
            signal = signal if spread is None else signal.weighed(spread)
            _note_outside(depth, signal, calibration, run)
        run.step(1, 3, "smoothing the surface")
        smooth, confidence = self._smoothed(depth, signal, psf_map, run)
        run.step(2, 3, "enlarging to the image")
        ys, xs = _positions(psf_map)
        known = nearest_over_image(confidence >= max(self.min_confidence, 1e-9), ys, xs, psf_map.image_shape)
        over = over_image(smooth, ys, xs, psf_map.image_shape, cubic=True)
        trust = np.clip(over_image(confidence, ys, xs, psf_map.image_shape, cubic=False), 0, 1)
        if not known.any():
            raise InvalidInputError(
                "min_confidence", "must leave at least one position of the map", f"{self.min_confidence:g}"
            )
        given = image.pixel_size_um if isinstance(image, Image) else None
        run.step(3, 3, "depth estimated")
        return DepthResult(
            depth_um=over if self.fill else np.where(known, over, np.float32(np.nan)),
            confidence=np.where(known, trust, np.float32(0)),
            calibrated=calibration is not None,
            record=self._record(psf_map, calibration, over[known], float(known.mean()), run, started),
            pixel_size_um=psf_map.pixel_size_um or given,
            intensity=plane,
        )

    def _axis_rad(
        self, signal: DefocusSignal, psf_map: PsfMap, calibration: DepthCalibration | None, run: Run
    ) -> float:
        """Return the lens's axis beyond focus: given, calibrated, or up to 90° from the map itself."""
        only_sign = psf_map.model == "gaussian-2" or self.rule == "paper"
        if self.axis_deg is not None and calibration is None:
            axis = math.radians(self.axis_deg)
            if only_sign and abs(math.sin(2 * axis)) > 1e-6:
                rule = f"must be 0 or 90 for {psf_map.model} with the rule '{self.rule}'"
                raise InvalidInputError("axis_deg", rule, self.axis_deg)
        elif calibration is not None:
            axis = calibration.axis_rad
            if self.axis_deg is not None and abs(math.sin(math.radians(self.axis_deg) - axis)) > 1e-6:
                run.note("The lens's axis was taken from the calibration, not from axis_deg.")
        else:
            axis = 0.0 if only_sign else signal.principal_axis_rad()
            run.note("Without calibration or axis_deg it stays open which side is beyond focus.")
        run.fact("axis_deg", round(math.degrees(axis), 3))
        return axis

    def _theory(self, psf_map: PsfMap, optics: Optics, run: Run) -> DepthCalibration | None:
        assert self.axis_deg is not None
        if psf_map.model != "zernike-3":
            run.note(f"Optics give µm to zernike-3 maps only; of this {psf_map.model} map depth is relative.")
            return None
        return DepthCalibration.from_optics(optics, axis_deg=self.axis_deg)

    def _smoothed(
        self, depth: NDArray[np.float64], signal: DefocusSignal, psf_map: PsfMap, run: Run
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the smooth depth and the confidence at the map's positions."""
        ys, xs = _positions(psf_map)
        sigma = self.smoothing_px
        if sigma is None:
            sigma = _default_smoothing_px(ys, xs)
        smooth, residuals = smooth_surface(depth, signal.weights * signal.precision, ys, xs, sigma)
        used = signal.weights > 0
        spread = robust_spread(residuals, signal.weights)
        run.fact("scatter", spread)
        tolerance = 3 * max(spread, _OUTLIER_FLOOR * float(np.ptp(smooth[used])), 1e-12)
        return smooth, signal.weights / (1 + (residuals / tolerance) ** 2)

    def _record(
        self,
        psf_map: PsfMap,
        calibration: DepthCalibration | None,
        depth: NDArray[Any],
        share: float,
        run: Run,
        started: float,
    ) -> Record:
        from napari_deblur.steps.psf_rules import describe_map

        run.fact("unit", "relative" if calibration is None else "µm")
        run.fact("depth_range", [float(depth.min()), float(depth.max())])
        run.fact("known_share", share)
        if calibration is not None:
            run.fact("calibration", calibration.model_dump(mode="json"))
        return Record(
            step=self.model_dump(mode="json"),
            seed=run.seed,
            seconds=round(time.perf_counter() - started, 3),
            input={"image_shape": list(psf_map.image_shape)},
            psf=describe_map(psf_map),
            weights=dict(psf_map.record.get("weights", {})),
            facts=dict(run.facts),
            notes=list(run.notes),
        )


def _default_smoothing_px(ys: NDArray[np.float64], xs: NDArray[np.float64]) -> float:
    """Return a reach beyond which patches are independent: they may overlap, and so share their errors."""
    steps = np.concatenate([np.diff(ys), np.diff(xs)])
    spacing = float(np.median(steps)) if len(steps) else 0.0
    # The first patch begins at the first pixel, so that its centre tells its size.
    patch = 2 * float(min(ys[0], xs[0])) + 1
    return max(_SMOOTHING_SPACINGS * spacing, _SMOOTHING_PATCHES * patch) if len(steps) else 0.0


def _positions(psf_map: PsfMap) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    centers = psf_map.centers_px.astype(np.float64)
    return centers[:, 0, 0], centers[0, :, 1]


def _note_outside(
    depth: NDArray[np.float64], signal: DefocusSignal, calibration: DepthCalibration, run: Run
) -> None:
    low, high = calibration.depth_range_um
    # A table puts what lies beyond its ends at them, where a few places belong anyway.
    margin, usual = (-0.01 * (high - low), 0.05) if calibration.table else (0.05 * (high - low), 0.0)
    outside = ((depth < low - margin) | (depth > high + margin)) & (signal.weights > 0)
    share = outside.sum() / np.count_nonzero(signal.weights > 0)
    if calibration.source.get("kind") != "optics" and share > usual:
        run.note(
            f"{share:.0%} of the positions lie outside the calibrated depths of {low:.3g} to {high:.3g} µm."
        )


def _check_kind(calibration: Any) -> None:
    if not isinstance(calibration, DepthCalibration):
        rule = "must be a DepthCalibration (DepthCalibration.load reads one from a file)"
        raise InvalidInputError("calibration", rule, repr(calibration))
