"""Four-quadrant test: blind, known-PSF and mean-PSF deblurring of micrographs from held-out sources.

After Table V of Shajkofci & Liebling 2020 (doi:10.1109/TIP.2020.2986880): every quadrant of a 256² patch is
blurred with its own PSF; TV-Richardson–Lucy, 20 iterations, restores it with the four true PSFs, with the
four that the network estimates at a stride of 128, and with the mean of the true ones. Gains are SNR after
minus SNR before.

    python -m benchmarks.blind_deblurring --data ../shared/data
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import arguments, report
from napari_deblur.core.image import Image
from napari_deblur.engine.engine import Engine
from napari_deblur.optics.psf import family
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.quality import snr_db, ssim
from napari_deblur.steps.deblur import Deblur
from napari_deblur.steps.psf_map import EstimatePsfMap
from napari_deblur.train.degrade import valid_convolution
from napari_deblur.train.tiles import micrograph_pool

SIZE_PX, PATCH_PX = 256, 128
CENTERS = np.stack(np.meshgrid([63.5, 191.5], [63.5, 191.5], indexing="ij"), axis=-1)
PHOTONS, READ_NOISE = 2000.0, 2.0
# Sharp enough that there is something to lose: a blank patch would score the noise.
LEAST_CONTRAST = 0.05


def draw_case(
    model: str, crop: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], PsfMap]:
    """Return the degraded image, the sharp one (both in photons) and the true map."""
    fam = family(model)
    low, high = np.array([fam.parameter_ranges[name] for name in fam.parameter_names]).T
    parameters = rng.uniform(low, high, (2, 2, len(low))).astype(np.float32)
    truth = PsfMap.from_parameters(model, parameters, centers_px=CENTERS, image_shape=(SIZE_PX, SIZE_PX))
    margin = fam.default_size_px // 2
    photons = torch.from_numpy(crop * PHOTONS)
    blurred = np.zeros((SIZE_PX, SIZE_PX), np.float32)
    for row, col in np.ndindex(2, 2):
        kernel = torch.from_numpy(truth.kernels()[row, col])
        whole = valid_convolution(photons[None], kernel[None])[0].numpy()
        quadrant = (slice(row * PATCH_PX, (row + 1) * PATCH_PX), slice(col * PATCH_PX, (col + 1) * PATCH_PX))
        blurred[quadrant] = whole[quadrant]
    noisy = rng.poisson(np.maximum(blurred, 0)) + rng.normal(0, READ_NOISE, blurred.shape)
    sharp = photons.numpy()[margin : margin + SIZE_PX, margin : margin + SIZE_PX]
    return noisy.astype(np.float32), sharp, truth


def gains(model: str, data_dir: Path, n_images: int, seed: int) -> dict[str, Any]:
    """Return mean and standard deviation of the gains of one family."""
    engine = Engine("cpu" if not torch.cuda.is_available() else "auto")
    pool = micrograph_pool(SIZE_PX + family(model).default_size_px - 1, data_dir, "test")
    rng = np.random.default_rng(seed)
    step = Deblur(method="tv-richardson-lucy")
    estimate = EstimatePsfMap(model=model, stride_px=PATCH_PX)
    rows: dict[str, list[tuple[float, float]]] = {"known": [], "blind": [], "mean PSF": []}
    while len(rows["known"]) < n_images:
        crop = pool.crop(rng)
        if crop.std() < LEAST_CONTRAST:
            continue
        noisy, sharp, truth = draw_case(model, crop, rng)
        image = Image(noisy)
        found = estimate.run(image, engine=engine)
        psfs = {"known": truth, "blind": found, "mean PSF": truth.kernels().mean(axis=(0, 1))}
        before = snr_db(noisy, sharp), ssim(noisy, sharp, PHOTONS)
        for name, psf in psfs.items():
            restored = step.run(image, psf, engine=engine).image.data
            rows[name].append(
                (snr_db(restored, sharp) - before[0], ssim(restored, sharp, PHOTONS) - before[1])
            )
    figures: dict[str, Any] = {"images": n_images}
    for name, values in rows.items():
        mean, spread = np.mean(values, axis=0), np.std(values, axis=0)
        figures[name] = {
            "delta_snr_db": round(float(mean[0]), 3),
            "delta_snr_db_sd": round(float(spread[0]), 3),
            "delta_ssim": round(float(mean[1]), 4),
        }
    share = figures["blind"]["delta_snr_db"] / figures["known"]["delta_snr_db"]
    figures["blind_share_of_known_gain"] = round(share, 3)
    return figures


def main() -> None:
    """Run both families."""
    args = arguments(
        __doc__,
        data={"type": Path, "required": True, "help": "folder with train_micro"},
        images={"type": int, "default": 350},
        models={"nargs": "+", "default": ["gaussian-2", "zernike-3"]},
        seed={"type": int, "default": 7},
    )
    figures = {
        model: gains(model, args.data, args.images, args.seed) for model in ("gaussian-2", "zernike-3")
    }
    bars = {
        f"{model}: blind share of the known-PSF gain": (found["blind_share_of_known_gain"], "at least", 0.75)
        for model, found in figures.items()
    }
    report("blind deblurring, four quadrants", figures, args.json, bars)


if __name__ == "__main__":
    main()
