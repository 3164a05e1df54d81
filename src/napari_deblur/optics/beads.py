"""Measure the PSF from an image of small beads: pick, centre, skip bad ones, average, normalise."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import FloatArray, Image, as_image
from napari_deblur.core.params import Declared, Param
from napari_deblur.core.run import Run
from napari_deblur.optics.measured import fourier_shift
from napari_deblur.optics.spots import (
    SIGMA_PER_FWHM,
    cut_out,
    estimate_fwhm,
    find_spots,
    offset_to,
    sharpest_plane,
    weighted_centre,
    window_around,
    without_noise,
)

_FLAT_TOP_PX = 5
_SIZE_PER_FWHM, _SIZE_MARGIN_PX = 3.0, 8.0
_ALIGNMENTS = 3


@dataclass(frozen=True, eq=False)
class BeadPsf:
    """A PSF averaged from beads, and what became of every candidate.

    Attributes
    ----------
    psf : ndarray, float32, shape (size, size)
        True-convolution kernel, centre at ``size // 2``, sum 1.
    positions_px : ndarray, float64, shape (n, 2)
        Centres (y, x) of all candidates, in pixels from the centre of the first pixel.
    used : ndarray, bool, shape (n,)
        Which of them were averaged.
    reasons : tuple of str, length n
        Why a candidate was skipped; empty where it was used.
    fwhm_px : tuple of float
        Full widths at half maximum of the PSF along y and x.
    plane : int
        Index of the plane of a stack (leading axes flattened) that was measured.
    """

    psf: FloatArray
    positions_px: NDArray[np.float64]
    used: NDArray[np.bool_]
    reasons: tuple[str, ...]
    fwhm_px: tuple[float, float]
    plane: int = 0


class Beads(Declared):
    """How beads are picked and averaged into a PSF."""

    size_px: int | None = Param(
        None,
        ge=5,
        le=511,
        step=2,
        title="Kernel size",
        help="Odd height and width of the PSF; chosen from the beads' width when not given.",
        unit="px",
    )
    bead_fwhm_px: float | None = Param(
        None,
        gt=0.5,
        le=200,
        step=0.5,
        title="Bead width",
        help="Rough full width at half maximum of a bead's image; estimated when not given.",
        unit="px",
    )
    min_snr: float = Param(
        10.0,
        ge=1,
        le=1000,
        step=1.0,
        title="Least SNR",
        help="Beads dimmer than this many times the noise are skipped.",
    )
    min_correlation: float = Param(
        0.9,
        ge=0,
        le=1,
        step=0.01,
        title="Least likeness",
        help="Beads whose correlation with the median bead is lower are skipped.",
    )
    saturation: float | None = Param(
        None,
        title="Saturation",
        help="Grey value at which the camera saturates; when not given, flat tops at the maximum count.",
        unit="grey values",
        advanced=True,
    )

    def measure(self, image: Image | ArrayLike, run: Run | None = None) -> BeadPsf:
        """Measure the PSF; of a stack, in its sharpest plane.

        Parameters
        ----------
        image : Image or array_like, shape (…, y, x)
            Single beads, smaller than the PSF, well apart.
        run : Run, optional
            Receives notes, facts and cancel.

        Returns
        -------
        BeadPsf

        Raises
        ------
        InvalidInputError
            If not one good bead is found; it says what became of the candidates.
        """
        run = run or Run()
        planes = as_image(image).planes()
        if self.size_px is not None and self.size_px % 2 == 0:
            raise InvalidInputError("size_px", "must be odd", self.size_px)
        index = sharpest_plane(planes, run)
        plane = planes[index].astype(np.float64)
        fwhm = self.bead_fwhm_px or estimate_fwhm(plane)
        size = self.size_px or default_size_px(fwhm)
        if size >= min(plane.shape):
            raise InvalidInputError(
                "size_px", f"must be below the image's smaller side {min(plane.shape)}", size
            )
        positions, snr = find_spots(plane, fwhm)
        run.step(1, 3, f"{len(positions)} bead candidates")
        reasons = self.first_look(plane, positions, snr, size, fwhm)
        positions, patches = cut_out(plane, positions, reasons, size, fwhm)
        self._compare(patches, reasons, fwhm)
        run.step(2, 3, "averaging beads")
        return self._average(positions, patches, reasons, fwhm, index, run)

    def first_look(
        self,
        plane: NDArray[np.float64],
        positions: NDArray[np.float64],
        snr: NDArray[np.float64],
        size: int,
        fwhm: float,
    ) -> list[str]:
        """Return a reason to skip for every candidate, empty for those that may be good."""
        from scipy.spatial import cKDTree

        half = size // 2 + 1
        top = plane.max()
        reasons = []
        tree = cKDTree(positions) if len(positions) else None
        for (y, x), strength in zip(positions, snr, strict=True):
            row, col = round(y), round(x)
            reason = ""
            near = tree.query_ball_point((y, x), 0.75 * size) if tree is not None else []
            if not (half <= row < plane.shape[0] - half and half <= col < plane.shape[1] - half):
                reason = "too close to the border"
            elif any(snr[other] > 0.1 * strength for other in near if tuple(positions[other]) != (y, x)):
                reason = "too close to another"
            elif self._saturated(window_around(plane, row, col, max(2, round(fwhm))), top):
                reason = "saturated"
            elif strength < self.min_snr:
                reason = "too dim"
            reasons.append(reason)
        return reasons

    def _saturated(self, core: NDArray[np.float64], top: float) -> bool:
        if self.saturation is not None:
            return bool(core.max() >= self.saturation)
        return int(np.count_nonzero(core == top)) >= _FLAT_TOP_PX

    def _compare(self, patches: dict[int, NDArray[np.float64]], reasons: list[str], fwhm: float) -> None:
        """Mark the beads that are unlike the median one; little is asked of fewer than three."""
        from scipy.ndimage import gaussian_filter

        if len(patches) < 3:
            return
        smooth = {i: gaussian_filter(patch, fwhm * SIGMA_PER_FWHM / 2) for i, patch in patches.items()}
        size = next(iter(smooth.values())).shape[0]
        distance = np.hypot(*np.meshgrid(*(np.arange(size) - size // 2,) * 2))
        core = distance <= max(2.0, 1.5 * fwhm)
        median = np.median([patch[core] / patch[core].sum() for patch in smooth.values()], axis=0)
        for i, patch in smooth.items():
            if np.corrcoef(patch[core], median)[0, 1] < self.min_correlation:
                reasons[i] = "unlike the others"

    def _average(
        self,
        positions: NDArray[np.float64],
        patches: dict[int, NDArray[np.float64]],
        reasons: list[str],
        fwhm: float,
        plane: int,
        run: Run,
    ) -> BeadPsf:
        good = [i for i in patches if not reasons[i]]
        if not good:
            rule = (
                "must show an isolated, unsaturated bead inside its border "
                "(give bead_fwhm_px for wide or ring-shaped ones)"
            )
            raise InvalidInputError("image", rule, tally(reasons))
        for _ in range(_ALIGNMENTS if len(good) > 1 else 0):
            template = np.sum([patches[i][1:-1, 1:-1] for i in good], axis=0)
            for i in good:
                offset = offset_to(template, patches[i][1:-1, 1:-1], fwhm)
                positions[i] += offset
                patches[i] = fourier_shift(patches[i], (-offset[0], -offset[1]))
        # Brighter beads count more: their sum has the least relative noise.
        mean = np.sum([patches[i] for i in good], axis=0)
        offset = weighted_centre(mean, fwhm)
        positions[good] += offset
        psf = without_noise(fourier_shift(mean, (-offset[0], -offset[1]))[1:-1, 1:-1], fwhm)
        run.fact("beads_used", len(good))
        run.fact("beads_skipped", dict(Counter(reason for reason in reasons if reason)))
        if len(good) < 3:
            run.note(f"Only {len(good)} bead(s) could be used: the PSF is as noisy as they are.")
        used = np.array([not reason for reason in reasons], dtype=bool)
        run.step(3, 3, "PSF measured")
        return BeadPsf(psf, positions, used, tuple(reasons), fwhm_px(psf), plane)


def default_size_px(fwhm: float) -> int:
    """Return the odd size of a window that holds a bead's image of that width and some around it."""
    return 2 * int(np.ceil((_SIZE_PER_FWHM * fwhm + _SIZE_MARGIN_PX) / 2)) + 1


def fwhm_px(psf: NDArray[Any]) -> tuple[float, float]:
    """Return the full widths at half maximum along y and x, through the brightest pixel.

    Parameters
    ----------
    psf : ndarray, shape (y, x)

    Returns
    -------
    tuple of float
        In pixels, half-maximum crossings interpolated linearly. A profile that stays above half of its
        maximum counts up to the border.
    """
    row, col = np.unravel_index(int(np.argmax(psf)), psf.shape)
    return _width(psf[:, col]), _width(psf[row, :])


def _width(profile: NDArray[Any]) -> float:
    values = np.asarray(profile, dtype=np.float64)
    peak = int(np.argmax(values))
    half = values[peak] / 2
    width = 0.0
    for side in (values[peak::-1], values[peak:]):
        below = np.flatnonzero(side < half)
        if len(below) == 0:
            width += len(side) - 0.5
            continue
        out = int(below[0])
        width += out - 1 + (side[out - 1] - half) / (side[out - 1] - side[out])
    return float(width)


def tally(reasons: list[str]) -> str:
    """Return in words what became of bead candidates."""
    if not reasons:
        return "nothing that looks like a bead"
    counts = Counter(reason or "good" for reason in reasons)
    return f"{len(reasons)} candidates, " + ", ".join(f"{n} {reason}" for reason, n in counts.most_common())
