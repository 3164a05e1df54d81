"""Seven aberrations read off blurred micrographs: the PSF's signal-to-noise ratio at three noise levels.

Sharp micrographs of the repositories held out for the test are blurred with random kernels of ``zernike-7``
(400² before, 370² after the valid convolution), and white noise is added. As the images differ from those of
Debarnot & Weiss 2024, its strength is what brings the mean SSIM of the degraded images to theirs: none, then
0.31 and 0.19. One PSF is read off each image; where the step refuses to, a perfect lens counts. Beside the
network stand two answers that need no image: a perfect lens, and the kernels' mean. After that, as in their
Fig. 5, the ratio over noise and over the size of the coefficients, beyond the trained range too.

    python -m benchmarks.aberrations --data ../shared/data --json aberrations.json
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import arguments, report
from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.engine.engine import Engine
from napari_deblur.optics.psf import family
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.quality import snr_db, ssim
from napari_deblur.steps.psf_map import EstimatePsfMap
from napari_deblur.train.degrade import valid_convolution
from napari_deblur.train.tiles import micrograph_pool

MODEL = "zernike-7"
SEED = 13_572_468
SHARP_PX = 400
SSIM_OF_INPUT = {"clean": None, "medium": 0.31, "strong": 0.19}
BARS_DB = {"clean": 14.0, "medium": 12.0, "strong": 9.0}
PUBLISHED_DB = {"clean": 12.9, "medium": 10.8, "strong": 7.9}
SIGMAS = (0.0, 0.02, 0.05, 0.1)
SIZES_WAVES = (0.05, 0.1, 0.15, 0.2)
_MATCHING_IMAGES = 24

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """One blurred image, without noise."""

    sharp: Array
    blurred: Array
    parameters: Array
    kernel: Array


def draw(data_dir: Path, count: int, largest_waves: float = 0.15) -> list[Case]:
    """Blur ``count`` sharp micrographs; the same ones whatever the coefficients' size."""
    pool, rng = micrograph_pool(SHARP_PX, data_dir, "test"), np.random.default_rng(SEED)
    chosen, margin = family(MODEL), family(MODEL).default_size_px // 2
    cases = []
    for _ in range(count):
        crop = pool.crop(rng)
        sharp = ((crop - crop.min()) / max(float(np.ptp(crop)), 1e-6)).astype(np.float32)
        values = rng.uniform(-1, 1, len(chosen.parameter_names)).astype(np.float32) * largest_waves
        values[0] = abs(values[0])
        kernel = chosen.kernels(torch.from_numpy(values))
        blurred = valid_convolution(torch.from_numpy(sharp)[None], kernel[None])[0].numpy()
        cases.append(Case(sharp[margin:-margin, margin:-margin], blurred, values, kernel.numpy()))
    return cases


def noisy(case: Case, sigma: float, number: int) -> Array:
    """Return an image with its own noise."""
    rng = np.random.default_rng([SEED, number])
    return (case.blurred + rng.normal(0, sigma, case.blurred.shape)).astype(np.float32)


def mean_ssim(cases: list[Case], sigma: float) -> float:
    """Return the mean SSIM of degraded images to sharp ones."""
    pairs = ((noisy(case, sigma, number), case.sharp) for number, case in enumerate(cases))
    return float(np.mean([ssim(image, sharp, data_range=1.0) for image, sharp in pairs]))


def matching_sigma(cases: list[Case], wanted: float) -> float:
    """Return the strength of the noise that brings the mean SSIM to a value, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_ssim(cases[:_MATCHING_IMAGES], middle) > wanted else (low, middle)
    return (low + high) / 2


def registered_snr_db(estimate: Array, kernel: Array) -> float:
    """Return the ratio after the best shift of the estimate, up to a pixel in quarters along each axis."""
    spectrum = np.fft.rfft2(estimate.astype(np.float64))
    fy, fx = np.fft.fftfreq(kernel.shape[0])[:, None], np.fft.rfftfreq(kernel.shape[1])[None, :]
    steps = np.arange(-4, 5) / 4
    moved = (
        np.fft.irfft2(spectrum * np.exp(-2j * np.pi * (fy * dy + fx * dx)), s=kernel.shape)
        for dy in steps
        for dx in steps
    )
    return max(snr_db(one.astype(np.float32), kernel) for one in moved)


def read(cases: list[Case], sigma: float, engine: Engine) -> dict[str, Any]:
    """Read one PSF off each image; return the figures."""
    chosen = family(MODEL)
    step = EstimatePsfMap(model=MODEL, one_psf=True)
    found, errors, plain, registered, refused = [], [], [], [], 0
    nothing = np.zeros(len(chosen.parameter_names), np.float32)
    for number, case in enumerate(cases):
        try:
            one = step.run(Image(noisy(case, sigma, number)), engine=engine, run=Run())
            assert isinstance(one, PsfMap)
            assert one.predicted_error is not None
            values, error = one.parameters[0, 0], one.predicted_error[0, 0]
        except InvalidInputError:
            refused += 1
            values, error = nothing, nothing + np.nan
        estimate = chosen.kernels(torch.from_numpy(values)).numpy()
        found.append(values)
        errors.append(error)
        plain.append(snr_db(estimate, case.kernel))
        registered.append(registered_snr_db(estimate, case.kernel))
    true = np.stack([case.parameters for case in cases])
    residual = np.stack(found) - true
    scores = 1 - (residual**2).sum(axis=0) / ((true - true.mean(axis=0)) ** 2).sum(axis=0)
    return {
        "sigma": round(sigma, 4),
        "psf_snr_db": round(float(np.mean(plain)), 2),
        "psf_snr_db_deviation": round(float(np.std(plain)), 2),
        "psf_snr_db_registered": round(float(np.mean(registered)), 2),
        "refused": refused,
        "error_ratio": round(float(np.sqrt(np.nanmean((residual / np.stack(errors)) ** 2))), 3),
        "r2": {
            name: round(float(score), 3) for name, score in zip(chosen.parameter_names, scores, strict=True)
        },
    }


def without_image(cases: list[Case]) -> dict[str, float]:
    """Return the ratio of a perfect lens and of the mean kernel."""
    airy = family(MODEL).kernels(torch.zeros(len(cases[0].parameters))).numpy()
    mean = np.mean([case.kernel for case in cases], axis=0)
    return {
        name: round(float(np.mean([snr_db(kernel, case.kernel) for case in cases])), 2)
        for name, kernel in (("perfect lens", airy), ("mean kernel", mean))
    }


def main() -> None:
    """Run the case; exit 1 where a bar is missed."""
    args = arguments(
        __doc__,
        data={"type": Path, "required": True, "help": "folder with train_micro"},
        images={"type": int, "default": 100, "help": "images per level"},
        stability={"type": int, "default": 40, "help": "images per point of the curves; 0 leaves them out"},
        device={"default": "auto", "help": "auto, cpu, cuda or mps"},
    )
    engine, cases = Engine(args.device), draw(args.data, args.images)
    figures: dict[str, Any] = {"images": len(cases), "without an image": without_image(cases), "levels": {}}
    for level, wanted in SSIM_OF_INPUT.items():
        sigma = 0.0 if wanted is None else matching_sigma(cases, wanted)
        found = {"ssim_of_input": round(mean_ssim(cases, sigma), 3), **read(cases, sigma, engine)}
        figures["levels"][level] = found | {"published_db": PUBLISHED_DB[level]}
    few = cases[: args.stability]
    if few:
        figures["over noise"] = {f"{s:g}": read(few, s, engine)["psf_snr_db"] for s in SIGMAS}
        figures["over size in waves"] = {
            f"{size:g}": read(draw(args.data, len(few), size), 0.0, engine)["psf_snr_db"]
            for size in SIZES_WAVES
        }
    bars = {
        f"PSF SNR, {level} (dB)": (figures["levels"][level]["psf_snr_db"], "at least", bar)
        for level, bar in BARS_DB.items()
    }
    sys.exit(0 if report("seven aberrations", figures, args.json, bars) else 1)


if __name__ == "__main__":
    main()
