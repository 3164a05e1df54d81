"""Split an image into what is in focus and a smooth background."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from napari_deblur.core.errors import CancelledError, InvalidInputError
from napari_deblur.core.image import FloatArray, Image, as_image
from napari_deblur.core.params import Param
from napari_deblur.core.record import Record
from napari_deblur.core.run import Run
from napari_deblur.steps.base import Step, describe_input

_DIVISORS = {"strong": 2.0, "weak": 2.5}
_CLIP_AT_MEAN_OVER: dict[str, float | None] = {"none": None, "mean": 1.0, "mean/2": 2.0, "mean/2.5": 2.5}
_WAVELET: dict[str, tuple[str, ...]] = {"algorithm": ("wavelet",)}
_WITH_RADIUS: dict[str, tuple[str, ...]] = {"algorithm": ("rolling-ball", "white-top-hat")}


@dataclass(frozen=True, eq=False)
class BackgroundResult:
    """An image split in three; ``image + background + clipped`` is the input.

    Attributes
    ----------
    image : Image
        Foreground, zero or more, in the input's units; knows what was clipped, for the steps that come after.
    background : Image
        Smooth background; the camera's offset is in it.
    clipped : Image
        What lay below the background, zero or less.
    record : Record
    partial : bool
        Whether the run was cancelled; planes that were not reached are foreground as they came in.
    """

    image: Image
    background: Image
    clipped: Image
    record: Record
    partial: bool = False


class RemoveBackground(Step):
    """Take a smooth background off, plane by plane, and keep it as an image of its own."""

    kind: Literal["remove-background"] = "remove-background"
    title: ClassVar[str] = "Background"

    algorithm: Literal["wavelet", "rolling-ball", "white-top-hat"] = Param(
        "wavelet",
        title="Algorithm",
        help="Wavelets follow broad haze; the other two need to know the size of the largest object.",
    )
    levels: int = Param(
        7,
        ge=1,
        le=12,
        title="Wavelet level",
        help="Structures wider than about 2 to this power, in pixels, count as background.",
        shown_if=_WAVELET,
    )
    n_iterations: int = Param(
        3,
        ge=1,
        le=100,
        title="Iterations",
        help="Bright structures pull the estimate up; each iteration lets go of them further.",
        shown_if=_WAVELET,
    )
    count_scale: float = Param(
        100.0,
        gt=0,
        le=1e6,
        step=10.0,
        title="Count scale",
        help="Photons the brightest pixel stands for (published: 1); larger keeps more of wide structures.",
        unit="photons",
        shown_if=_WAVELET,
    )
    low_snr_clip: Literal["none", "mean", "mean/2", "mean/2.5"] = Param(
        "none",
        title="Low-signal clip",
        help="For very noisy images: first clip at the mean above the darkest pixel, or at a part of it.",
        shown_if=_WAVELET,
    )
    background: Literal["strong", "weak"] = Param(
        "strong",
        title="Background is",
        help="Divides the count scale by 2 (strong) or 2.5 (weak), as published; the effect is slight.",
        advanced=True,
        shown_if=_WAVELET,
    )
    radius_px: float = Param(
        50.0,
        ge=1,
        le=10000,
        step=1.0,
        title="Radius",
        help="A little more than the radius of the largest object that is not background.",
        unit="px",
        shown_if=_WITH_RADIUS,
    )

    def run(self, image: Image, run: Run | None = None) -> BackgroundResult:
        """Split every plane of an image.

        Parameters
        ----------
        image : Image, shape (…, y, x)
        run : Run, optional
            Progress and cancel.

        Returns
        -------
        BackgroundResult

        Raises
        ------
        InvalidInputError
            If the image breaks a rule or is too small for ``radius_px``.
        CancelledError
            If cancelled before the first plane was done.
        """
        run = run or Run()
        image = as_image(image)
        self._check_radius(image)
        started = time.perf_counter()
        planes = image.planes()
        foreground, background = planes.copy(), np.zeros_like(planes)
        clipped = np.zeros_like(planes)
        done = 0
        try:
            for index, plane in enumerate(planes):
                run.step(index, len(planes), f"background of plane {index + 1} of {len(planes)}")
                found = self._estimate(plane, run.part(index, index + 1, len(planes)))
                rest = plane - found
                background[index] = found
                np.maximum(rest, 0, out=foreground[index])
                np.minimum(rest, 0, out=clipped[index])
                done = index + 1
            run.step(done, len(planes), "background removed")
        except CancelledError:
            if done == 0:
                raise
            if done < len(planes):
                run.note(f"Cancelled after {done} of {len(planes)} planes; the rest is as it came in.")
        split = (foreground, background, clipped)
        return self._result(image, split, run, started, partial=done < len(planes))

    def _check_radius(self, image: Image) -> None:
        smaller = min(image.shape_yx)
        if self.algorithm != "wavelet" and self.radius_px >= smaller:
            rule = f"must be below the image's smaller side, {smaller} px"
            raise InvalidInputError("radius_px", rule, f"{self.radius_px:g}")

    def _estimate(self, plane: FloatArray, run: Run) -> FloatArray:
        from napari_deblur.steps import background_estimators as estimators

        if self.algorithm == "rolling-ball":
            return estimators.rolling_ball_background(plane, self.radius_px, run)
        if self.algorithm == "white-top-hat":
            return estimators.opening_background(plane, self.radius_px, run)
        shape = (plane.shape[0], plane.shape[1])
        level = estimators.coarsest_level(shape, self.levels)
        if level < self.levels:
            run.note(f"Wavelet level {self.levels} is too coarse for {shape} pixels: level {level} was used.")
        run.fact("wavelet_level", level)
        return estimators.wavelet_background(
            plane,
            level=level,
            n_iterations=self.n_iterations,
            divisor=_DIVISORS[self.background],
            count_scale=self.count_scale,
            clip_at_mean_over=_CLIP_AT_MEAN_OVER[self.low_snr_clip],
            run=run,
        )

    def _result(
        self,
        image: Image,
        split: tuple[FloatArray, FloatArray, FloatArray],
        run: Run,
        started: float,
        *,
        partial: bool,
    ) -> BackgroundResult:
        shape = image.data.shape
        foreground, background, clipped = (part.reshape(shape) for part in split)
        above = float(np.sum(image.data - image.data.min(), dtype=np.float64))
        run.fact("foreground_share", float(np.sum(foreground, dtype=np.float64)) / above if above else 0.0)
        run.fact("clipped_pixels_share", float(np.mean(clipped < 0)))
        record = Record(
            step=self.model_dump(mode="json"),
            seed=run.seed,
            seconds=round(time.perf_counter() - started, 3),
            input=describe_input(image),
            facts=dict(run.facts),
            notes=list(run.notes),
            partial=partial,
        )
        kept = image.with_data(foreground, f"{image.name} · background removed")
        return BackgroundResult(
            image=replace(kept, below=clipped),
            background=image.with_data(background, f"{image.name} · background"),
            clipped=image.with_data(clipped, f"{image.name} · clipped"),
            record=record,
            partial=partial,
        )
