"""Product-convolution operators: the blur of micrographs found in a PSF basis, and what restoring gains.

After Fig. 10 of Debarnot & Weiss 2024 (doi:10.1017/S2633903X24000096): micrographs of the repositories held
out for the test, 400², blurred by space-varying operators, with white noise of standard deviation 0.01 (and
0.03) of the range. The operators are of two kinds: ``basis``, the blur of a field that the basis was learned
from, as the basis holds it (as published); and ``new``, pupils of the same simulated microscope in fields
that the basis has not seen and holds only nearly.

The PSF map's signal-to-noise ratio is the mean over 13 × 13 positions. Beside the blur found blindly stand
the basis' mean, what the network for defocus and astigmatism reads (told the optics) projected onto the
basis, and the best that the basis holds. Every method restores with the mean PSF, the true operator and the
one found.

    python -m benchmarks.product_convolution --data ../shared/data [--images 24] [--json FILE]
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import arguments, report
from benchmarks.deep_blur import OBJECT_PX, sharp_images
from napari_deblur.blur.space_varying import MaskThenConvolve, compress
from napari_deblur.core.errors import NapariDeblurError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.engine.shared import get_engine
from napari_deblur.methods.base import Method
from napari_deblur.methods.deep_blur import DeepBlur
from napari_deblur.methods.richardson_lucy import RichardsonLucy, TVRichardsonLucy
from napari_deblur.methods.wiener import Wiener
from napari_deblur.nets.weights import list_models
from napari_deblur.optics.basis_learning import GRID
from napari_deblur.optics.psf_basis import PsfBasis
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.optics.settings import Optics
from napari_deblur.optics.simulated_fields import SimulatedFields
from napari_deblur.quality import ssim
from napari_deblur.steps.deblur import Deblur
from napari_deblur.steps.identify import IdentifyOperator, known_basis
from napari_deblur.steps.psf_map import EstimatePsfMap

SEED = 24_681_012
NOISES = (0.01, 0.03)
SHAPE = (400, 400)
BAR_DB = 14.0
OPTICS = Optics(na=1.41, refractive_index=1.51, wavelength_um=0.54, pixel_size_um=0.1)
METHODS: dict[str, Method] = {
    "Wiener": Wiener(),
    "Richardson-Lucy": RichardsonLucy(),
    "TV Richardson-Lucy": TVRichardsonLucy(),
}

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """One degraded micrograph with the truth."""

    y: Float
    sharp: Float
    operator: PsfMap


def operators(basis: PsfBasis, kind: str, count: int, rng: np.random.Generator) -> list[PsfMap]:
    """Return operators that the basis holds, or those of new fields of its microscope."""
    if kind == "basis":
        fields = rng.choice(len(basis.coefficients), count, replace=False)
        return [basis.operator(basis.coefficients[field], SHAPE) for field in fields]
    lines = [np.linspace(0, side - 1, GRID) for side in SHAPE]
    centers = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1)
    places = centers.reshape(-1, 2) / (np.asarray(SHAPE) - 1) * 2 - 1
    # The first draws of the seed make the microscope, the later ones its fields.
    settings = SimulatedFields(n_fields=len(basis.labels) + count)
    drawn = settings.aberrations(settings.n_fields, np.random.default_rng(settings.seed), places)[-count:]
    return [
        PsfMap.from_parameters(
            "zernike-7",
            waves.reshape(GRID, GRID, 7),
            centers_px=centers,
            image_shape=SHAPE,
            cutoff_cycles_per_px=settings.cutoff_cycles_per_px,
            kernel_size_px=settings.size_px,
        )
        for waves in drawn
    ]


def degraded(sharp: Float, operator: PsfMap, noise: float, rng: np.random.Generator) -> Case:
    """Blur an object by an operator and add white noise."""
    centers = operator.centers_px
    eigen = compress(operator.kernels(), centers[:, 0, 0], centers[0, :, 1], tolerance=1e-3)
    blur = MaskThenConvolve(eigen, SHAPE)
    y = blur.forward(torch.from_numpy(sharp)).numpy()
    y = y + noise * rng.standard_normal(SHAPE).astype(np.float32)
    return Case(y, np.ascontiguousarray(blur.crop(torch.from_numpy(sharp)).numpy()), operator)


def map_snr_db(found: NDArray[Any], true: NDArray[Any]) -> float:
    """Return the mean over the field of the kernels' signal-to-noise ratio."""
    error = ((found - true) ** 2).sum(axis=(-2, -1)) / (true**2).sum(axis=(-2, -1))
    return float(np.mean(-10 * np.log10(np.maximum(error, 1e-12))))


def projected(kernels: NDArray[Any], centers_px: NDArray[Any], basis: PsfBasis, trust: NDArray[Any]) -> Float:
    """Return the coefficients of the operator of a basis that is nearest to kernels of a grid."""
    size = basis.kernel_size_px
    off = (kernels.shape[-1] - size) // 2
    same = kernels[..., off : off + size, off : off + size] if off > 0 else kernels
    same = np.pad(same, [(0, 0), (0, 0), (-off, -off), (-off, -off)]) if off < 0 else same
    eigen = basis.kernels[1:].reshape(basis.n_psfs, -1).astype(np.float64)
    rest = (same - basis.kernels[0]).reshape(-1, size * size)
    strengths = rest @ eigen.T / (eigen**2).sum(axis=1)
    maps = basis.maps_at(centers_px[:, 0, 0], centers_px[0, :, 1], SHAPE).reshape(basis.n_maps, -1).T
    weight = np.sqrt(trust.reshape(-1, 1))
    values = np.linalg.lstsq(maps * weight, strengths * weight, rcond=None)[0].T
    return np.asarray(values, dtype=np.float32)


def from_network(case: Case, basis: PsfBasis) -> Float | None:
    """Return what the network for defocus and astigmatism reads, in the basis; None where that is nothing."""
    try:
        step, image = EstimatePsfMap(model="zernike-3"), Image(case.y)
        found = step.run(image, engine=get_engine(), run=Run(), optics=OPTICS)
    except NapariDeblurError:
        return None
    assert isinstance(found, PsfMap)
    trust = np.maximum(found.confidence, 1e-3)
    return projected(found.kernels(), found.centers_px, basis, trust)


def identification(case: Case, basis: PsfBasis) -> tuple[dict[str, float], PsfMap]:
    """Return the figures of one image's PSF map, and the operator found."""
    true = case.operator.kernels()
    started = time.perf_counter()
    found = IdentifyOperator().run(Image(case.y), basis, engine=get_engine(), run=Run())
    seconds = time.perf_counter() - started
    assert isinstance(found, PsfMap)
    network = from_network(case, basis)
    trust = np.ones(true.shape[:2])
    best = projected(true, case.operator.centers_px, basis, trust)
    figures = {
        "blind_snr_db": map_snr_db(found.kernels(), true),
        "mean_snr_db": map_snr_db(np.broadcast_to(basis.kernels[0], true.shape), true),
        "best_in_basis_snr_db": min(map_snr_db(basis.operator(best, SHAPE).kernels(), true), 60.0),
        "seconds": seconds,
    }
    if network is not None:
        figures["network_projected_snr_db"] = map_snr_db(basis.operator(network, SHAPE).kernels(), true)
    return figures, found


def restored(case: Case, basis: PsfBasis, found: PsfMap) -> dict[str, float]:
    """Return the SSIM of the image and of what methods make of it with the PSFs."""
    psfs: dict[str, Any] = {"mean PSF": basis.kernels[0], "true": case.operator, "blind": found}
    figures = {"y": ssim(case.y, case.sharp, 1.0)}
    methods = dict(METHODS)
    if any(model.id == "deep-blur-deblurring" for model in list_models()):
        methods["Deep-Blur"] = DeepBlur()
    for name, method in methods.items():
        for kind, psf in psfs.items():
            result = Deblur(method=method).run(Image(case.y), psf, engine=get_engine(), run=Run())
            figures[f"{name}, {kind}"] = ssim(np.asarray(result.image.data), case.sharp, 1.0)
    return figures


def mean_of(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of every figure over the images that have it, and the least SNR."""
    names = dict.fromkeys(name for row in rows for name in row)
    found = {name: round(float(np.mean([row[name] for row in rows if name in row])), 4) for name in names}
    if "blind_snr_db" in found:
        found["blind_snr_db_deviation"] = round(float(np.std([row["blind_snr_db"] for row in rows])), 4)
    return found


def main() -> int:
    """Run the case."""
    given = arguments(
        __doc__,
        data={"type": Path, "default": None, "help": "folder with the micrographs"},
        images={"type": int, "default": 24, "help": "how many images"},
    )
    basis = known_basis("product-convolution")
    figures: dict[str, Any] = {"basis": basis.describe()}
    bars: dict[str, tuple[float, str, float]] = {}
    for kind in ("basis", "new"):
        for noise in NOISES:
            rng = np.random.default_rng(SEED)
            sharp = [image for _, image in sharp_images(given.data, given.images, rng)]
            blurs = operators(basis, kind, given.images, rng)
            rows, images = [], []
            for image, operator in zip(sharp, blurs, strict=True):
                cut = np.ascontiguousarray(image[:OBJECT_PX, :OBJECT_PX], dtype=np.float32)
                case = degraded(cut, operator, noise, rng)
                row, found = identification(case, basis)
                rows.append(row)
                images.append(restored(case, basis, found))
            name = f"{kind}, noise {noise:g}"
            figures[name] = {"psf_map": mean_of(rows), "ssim": mean_of(images)}
            if noise == NOISES[0]:
                bars[f"PSF map, {name}"] = (figures[name]["psf_map"]["blind_snr_db"], "at least", BAR_DB)
                found_ssim = figures[name]["ssim"]
                best = max(value for key, value in found_ssim.items() if key.endswith("blind"))
                bars[f"SSIM gain, {name}"] = (best - found_ssim["y"], "at least", 0.0)
    return 0 if report("product_convolution", figures, given.json, bars) else 1


if __name__ == "__main__":
    sys.exit(main())
