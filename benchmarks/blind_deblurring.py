"""Four-quadrant test: blind, known-PSF and mean-PSF deblurring of micrographs from held-out sources.

After Table V of Shajkofci & Liebling 2020 (doi:10.1109/TIP.2020.2986880): every quadrant of a 256² patch is
blurred with its own PSF; TV-Richardson–Lucy, 20 iterations, restores it with the four true PSFs, with the
four that the network estimates at a stride of 128, and with the mean of the true ones. Beside them, with that
mean, scikit-image's unsupervised Wiener filter on the image and its mirror images, which are periodic as it
assumes, and its Richardson–Lucy with as many iterations in a frame of reflections. Gains are SNR after minus
SNR before.

    python -m benchmarks.blind_deblurring --data ../shared/data
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import arguments, report
from napari_deblur.core.errors import UntellableError
from napari_deblur.core.image import Image
from napari_deblur.engine.engine import Engine
from napari_deblur.engine.shared import get_engine
from napari_deblur.methods.richardson_lucy import TVRichardsonLucy
from napari_deblur.nets.weights import list_models
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
N_ITERATIONS = 20
# Sharp enough that there is something to lose: a blank patch would score the noise.
LEAST_CONTRAST = 0.05
KNOWN, BLIND, MEAN = "known", "blind", "mean PSF"
RIVALS = ("scikit-image unsupervised_wiener, mean PSF", "scikit-image richardson_lucy, mean PSF")
LEAST_SHARE, LEAST_SSIM_GAIN = 0.95, 0.10

Float = NDArray[np.float32]


def shipped() -> list[str]:
    """Return the ids of the identification networks at hand."""
    return [info.id for info in list_models() if info.card.get("task") == "psf-identification"]


def draw_case(model: str, crop: Float, rng: np.random.Generator) -> tuple[Float, Float, PsfMap]:
    """Return the degraded image, the sharp one (both in photons) and the true map."""
    fam = family(model)
    low, high = np.array([fam.parameter_ranges[name] for name in fam.parameter_names]).T
    parameters = rng.uniform(low, high, (2, 2, len(low))).astype(np.float32)
    truth = PsfMap.from_parameters(model, parameters, centers_px=CENTERS, image_shape=(SIZE_PX, SIZE_PX))
    margin = fam.default_size_px // 2
    photons = torch.from_numpy(crop * PHOTONS)
    blurred = np.zeros((SIZE_PX, SIZE_PX), np.float32)
    kernels = truth.kernels()
    for row, col in np.ndindex(2, 2):
        kernel = torch.from_numpy(kernels[row, col])
        whole = valid_convolution(photons[None], kernel[None])[0].numpy()
        quadrant = (slice(row * PATCH_PX, (row + 1) * PATCH_PX), slice(col * PATCH_PX, (col + 1) * PATCH_PX))
        blurred[quadrant] = whole[quadrant]
    noisy = rng.poisson(np.maximum(blurred, 0)) + rng.normal(0, READ_NOISE, blurred.shape)
    sharp = photons.numpy()[margin : margin + SIZE_PX, margin : margin + SIZE_PX]
    return noisy.astype(np.float32), sharp, truth


def rival(name: str, noisy: Float, psf: Float) -> Float:
    """Restore with scikit-image, the image continued as each of its methods needs it."""
    from skimage import restoration

    scaled = np.maximum(noisy, 0) / PHOTONS
    height, width = noisy.shape
    if name == RIVALS[0]:
        mirrored = np.pad(scaled, ((0, height), (0, width)), mode="symmetric")
        found = restoration.unsupervised_wiener(mirrored, psf, clip=False, rng=0)[0][:height, :width]
    else:
        frame = psf.shape[-1] // 2
        framed = np.pad(scaled, frame, mode="reflect")
        found = restoration.richardson_lucy(framed, psf, num_iter=N_ITERATIONS, clip=False)
        found = found[frame:-frame, frame:-frame]
    return np.asarray(found * PHOTONS, dtype=np.float32)


def restorations(
    noisy: Float, truth: PsfMap, detections: list[str], engine: Engine, with_rivals: bool
) -> dict[str, Callable[[], Float]]:
    """Return what restores a case, by name; blind ones by the family that reads the PSFs."""
    image, step = Image(noisy), Deblur(method=TVRichardsonLucy(n_iterations=N_ITERATIONS))
    mean = truth.kernels().mean(axis=(0, 1))

    def ours(psf: PsfMap | Float) -> Float:
        return np.asarray(step.run(image, psf, engine=engine).image.data, dtype=np.float32)

    def blind(model: str) -> Float:
        found = EstimatePsfMap.model_validate({"model": model, "stride_px": PATCH_PX}).run(
            image, engine=engine
        )
        assert isinstance(found, PsfMap)
        return ours(found)

    ways: dict[str, Callable[[], Float]] = {KNOWN: lambda: ours(truth), MEAN: lambda: ours(mean)}
    ways |= {f"{BLIND}, {model}": lambda model=model: blind(model) for model in detections}
    if with_rivals:
        ways |= {name: lambda name=name: rival(name, noisy, mean) for name in RIVALS}
    return ways


def gains(
    model: str,
    detections: list[str],
    data_dir: Path,
    n_images: int,
    seed: int,
    *,
    with_rivals: bool = True,
) -> dict[str, Any]:
    """Return mean and standard deviation of the gains for one family of degradations.

    Parameters
    ----------
    model : str
        Family that blurs.
    detections : list of str
        Families whose networks read the PSFs.
    data_dir : Path
    n_images, seed : int
    with_rivals : bool
    """
    engine = get_engine()
    pool = micrograph_pool(SIZE_PX + family(model).default_size_px - 1, data_dir, "test")
    rng = np.random.default_rng(seed)
    rows: dict[str, list[tuple[float, float]]] = {}
    refused: dict[str, int] = {}
    for _ in range(n_images):
        crop = pool.crop(rng)
        while crop.std() < LEAST_CONTRAST:
            crop = pool.crop(rng)
        noisy, sharp, truth = draw_case(model, crop, rng)
        before = snr_db(noisy, sharp), ssim(noisy, sharp, PHOTONS)
        for name, restore in restorations(noisy, truth, detections, engine, with_rivals).items():
            try:
                restored = restore()
            except UntellableError:  # no patch tells its PSF: the image stays as it is, and gains nothing
                restored, refused[name] = noisy, refused.get(name, 0) + 1
            rows.setdefault(name, []).append(
                (snr_db(restored, sharp) - before[0], ssim(restored, sharp, PHOTONS) - before[1])
            )
    figures: dict[str, Any] = {"images": n_images}
    for name, values in rows.items():
        mean, spread = np.mean(values, axis=0), np.std(values, axis=0)
        figures[name] = {
            "delta_snr_db": round(float(mean[0]), 3),
            "delta_snr_db_sd": round(float(spread[0]), 3),
            "delta_ssim": round(float(mean[1]), 4),
            "delta_ssim_sd": round(float(spread[1]), 4),
        }
    for name in detections:
        found = figures[f"{BLIND}, {name}"]
        found["images_without_any_psf"] = refused.get(f"{BLIND}, {name}", 0)
        found["share_of_known_gain"] = round(found["delta_snr_db"] / figures[KNOWN]["delta_snr_db"], 3)
    return figures


def bars_of(title: str, found: dict[str, Any]) -> dict[str, tuple[float, str, float]]:
    """Return what one blind result has to reach."""
    return {
        f"{title}: share of the known-PSF gain": (found["share_of_known_gain"], "at least", LEAST_SHARE),
        f"{title}: gain in SSIM": (found["delta_ssim"], "at least", LEAST_SSIM_GAIN),
    }


def main() -> None:
    """Run every family that has a network."""
    args = arguments(
        __doc__,
        data={"type": Path, "required": True, "help": "folder with train_micro"},
        images={"type": int, "default": 350},
        models={"nargs": "+", "default": shipped()},
        seed={"type": int, "default": 7},
    )
    figures = {model: gains(model, [model], args.data, args.images, args.seed) for model in args.models}
    bars: dict[str, tuple[float, str, float]] = {}
    for model, found in figures.items():
        bars |= bars_of(model, found[f"{BLIND}, {model}"])
    report("blind deblurring, four quadrants", figures, args.json, bars)


if __name__ == "__main__":
    main()
