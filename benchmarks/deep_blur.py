"""Deep-Blur against classical methods: aberrated 400² images at three noise levels, and how stable it is.

After Table 1 and Fig. 5 of Debarnot & Weiss 2024 (doi:10.1017/S2633903X24000096): micrographs from sources
that no network was trained on, and photographs of scikit-image that are not in the training set either, each
blurred by seven random aberrations. Their noise is chosen image by image so that the blurred image has
the published SSIM (0.31 and 0.19; for the first level there is no noise). Every method restores the same
images, with the true PSF and with the one that the identification network reads. Deep-Blur, Wiener and
TV-Richardson–Lucy run with their defaults; beside them Richardson–Lucy with the number of iterations, and
TV-Richardson–Lucy with the weight, that suit it best on the whole set (chosen with the truth known, in their
favour).

    python -m benchmarks.deep_blur --data ../shared/data [--images 24] [--stability] [--json FILE]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import arguments, report
from benchmarks.scaling import Peak
from napari_deblur.core.image import Image
from napari_deblur.engine.engine import Engine
from napari_deblur.engine.shared import get_engine
from napari_deblur.methods.base import Method
from napari_deblur.methods.deep_blur import DeepBlur
from napari_deblur.methods.richardson_lucy import RichardsonLucy, TVRichardsonLucy
from napari_deblur.methods.wiener import Wiener
from napari_deblur.nets.weights import list_models
from napari_deblur.optics.psf import family
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.quality import snr_db, ssim
from napari_deblur.steps.deblur import Deblur
from napari_deblur.steps.psf_map import EstimatePsfMap
from napari_deblur.train.tiles import micrograph_pool

FAMILY = "zernike-7"
OBJECT_PX, ABERRATION = 430, 0.15
TARGETS: dict[str, float | None] = {"no noise": None, "SSIM 0.31": 0.31, "SSIM 0.19": 0.19}
GAINS = {"no noise": 0.09, "SSIM 0.31": 0.22, "SSIM 0.19": 0.21}
PHOTOGRAPHS = ("stereo_motorcycle", "moon", "retina", "hubble_deep_field", "clock")
ITERATIONS, TV_WEIGHTS = (5, 10, 20, 50), (0.003, 0.01, 0.03, 0.1)
TUNED = ("Richardson-Lucy", "Tuned TV Richardson-Lucy")
NOISES, AMPLITUDES = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12), (0.05, 0.1, 0.15, 0.2)
LEAST_CONTRAST = 0.05
TIMED_PX, REPEATS = 400, 5

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """One degraded image with the truth."""

    y: Float
    sharp: Float
    kernel: Float
    source: str


def sharp_images(data_dir: Path | None, count: int, rng: np.random.Generator) -> Iterator[tuple[str, Float]]:
    """Yield (source, 430² image in 0 to 1): micrographs, where there is a folder, and photographs in turn."""
    photographs = [_photograph(name) for name in PHOTOGRAPHS]
    pool = micrograph_pool(OBJECT_PX, data_dir, "test") if data_dir else None
    for index in range(count):
        if pool is None or index % 4 == 3:
            image = photographs[index // 4 % len(photographs)]
            top, left = (int(rng.integers(0, side - OBJECT_PX + 1)) for side in image.shape)
            yield "photographs", image[top : top + OBJECT_PX, left : left + OBJECT_PX]
            continue
        crop = pool.crop(rng)
        while crop.std() < LEAST_CONTRAST:
            crop = pool.crop(rng)
        yield "micrographs", crop


def _photograph(name: str) -> Float:
    """Read one of scikit-image's pictures, mirrored to at least the object's size."""
    from skimage import color, data

    found = getattr(data, name)()
    image = np.asarray(found[0] if isinstance(found, tuple) else found, dtype=np.float32) / 255
    grey = np.asarray(color.rgb2gray(image[..., :3]) if image.ndim == 3 else image, dtype=np.float32)
    short = [(0, max(0, OBJECT_PX - side)) for side in grey.shape]
    return np.pad(grey, short, mode="symmetric")


def draw_kernel(rng: np.random.Generator, amplitude: float = ABERRATION) -> Float:
    """Draw seven aberrations, uniform up to an amplitude in waves, defocus made positive."""
    waves = rng.uniform(-amplitude, amplitude, len(family(FAMILY).parameter_names))
    waves[0] = abs(waves[0])
    kernel: Float = family(FAMILY).kernels(torch.tensor(waves, dtype=torch.float32)).numpy()
    return kernel


def degraded(
    sharp: Float, kernel: Float, noise: float | None, target: float | None, noise_map: Float
) -> Case:
    """Blur an object by a valid convolution, and add noise of a strength or up to a target SSIM."""
    from scipy.signal import fftconvolve

    margin = kernel.shape[0] // 2
    clean = fftconvolve(sharp, kernel, mode="valid").astype(np.float32)
    truth = sharp[margin:-margin, margin:-margin]
    part = noise_map[: clean.shape[0], : clean.shape[1]]
    if target is not None:
        low, high = 0.0, 1.0
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if ssim(clean + middle * part, truth, 1.0) > target else (low, middle)
        noise = (low + high) / 2
    return Case((clean + (noise or 0.0) * part).astype(np.float32), truth, kernel, "")


def cases(
    args: Any, target: float | None, *, noise: float | None = None, amplitude: float = ABERRATION
) -> list[Case]:
    """Return the set of degraded images; the same objects, kernels and noise whatever the level."""
    rng = np.random.default_rng(args.seed)
    found = []
    for source, sharp in sharp_images(args.data, args.images, rng):
        kernel = draw_kernel(rng, amplitude)
        grain = rng.standard_normal(sharp.shape).astype(np.float32)
        case = degraded(sharp, kernel, noise, target, grain)
        found.append(Case(case.y, case.sharp, case.kernel, source))
    return found


def estimated(case: Case, engine: Engine) -> PsfMap | None:
    """Return the PSF that the network reads, or None where there is no such network."""
    if not any(model.id == FAMILY for model in list_models()):
        return None
    step = EstimatePsfMap.model_validate({"model": FAMILY, "one_psf": True})
    found = step.run(Image(case.y), engine=engine)
    assert isinstance(found, PsfMap)
    return found


def methods() -> dict[str, Method]:
    """Return what restores, by name."""
    return {
        "Deep-Blur": DeepBlur(),
        "TV Richardson-Lucy": TVRichardsonLucy(),
        "Wiener": Wiener(),
        **{f"Tuned TV Richardson-Lucy, {w:g}": TVRichardsonLucy(tv_weight=w) for w in TV_WEIGHTS},
        **{f"Richardson-Lucy, {n}": RichardsonLucy(n_iterations=n) for n in ITERATIONS},
    }


def evaluate(found: list[Case], engine: Engine, wanted: dict[str, Method]) -> dict[str, Any]:
    """Return mean SSIM and SNR of the images and of everything that restores them."""
    rows: dict[str, list[tuple[float, float]]] = {}
    psf_snr: list[float] = []
    for case in found:
        rows.setdefault("blurred", []).append(score(case.y, case))
        psfs: dict[str, Float | PsfMap] = {"true PSF": case.kernel}
        if (read := estimated(case, engine)) is not None:
            psfs["estimated PSF"] = read
            mean = read.kernels().mean(axis=(0, 1))
            psf_snr.append(snr_db(_fitted(mean, case.kernel.shape[0]), case.kernel))
        for psf_name, psf in psfs.items():
            for name, method in wanted.items():
                result = Deblur(method=method).run(Image(case.y), psf, engine=engine)
                rows.setdefault(f"{name}, {psf_name}", []).append(score(result.image.data, case))
    before = np.array(rows["blurred"])
    table = {}
    for name, values in rows.items():
        scores = np.array(values)
        table[name] = {
            "ssim": round(float(scores[:, 0].mean()), 4),
            "ssim_sd": round(float(scores[:, 0].std()), 4),
            "ssim_gain": round(float((scores - before)[:, 0].mean()), 4),
            "snr_gain_db": round(float((scores - before)[:, 1].mean()), 3),
        }
    figures: dict[str, Any] = {"images": len(found), "methods": best_of_each(table)}
    for source in sorted({case.source for case in found}):
        chosen = [index for index, case in enumerate(found) if case.source == source]
        figures[f"ssim_gain, {source}"] = {
            name: round(float((np.array(values) - before)[chosen, 0].mean()), 4)
            for name, values in rows.items()
            if name in figures["methods"] and name != "blurred"
        }
    if psf_snr:
        figures["psf_snr_db"] = [round(float(np.mean(psf_snr)), 2), round(float(np.std(psf_snr)), 2)]
    return figures


def score(image: Any, case: Case) -> tuple[float, float]:
    """Return SSIM, for a range of 1, and SNR."""
    return ssim(image, case.sharp, 1.0), snr_db(image, case.sharp)


def best_of_each(table: dict[str, Any]) -> dict[str, Any]:
    """Keep of the tuned rivals, for each PSF, the setting of the highest SSIM over the whole set."""
    kept = {name: row for name, row in table.items() if not name.startswith(TUNED)}
    for title in TUNED:
        for psf in ("true PSF", "estimated PSF"):
            rivals = {
                name: row for name, row in table.items() if name.startswith(title) and name.endswith(psf)
            }
            if rivals:
                best = max(rivals, key=lambda name: float(rivals[name]["ssim"]))
                kept[best] = rivals[best]
    return kept


def _fitted(kernel: Float, size: int) -> Float:
    """Cut or pad a kernel to a size."""
    half, own = size // 2, kernel.shape[0] // 2
    if own > half:
        return kernel[own - half : own + half + 1, own - half : own + half + 1]
    return np.pad(kernel, half - own)


def stability(args: Any, engine: Engine) -> dict[str, Any]:
    """Return the gain in SSIM against the noise, and against the strength of the aberrations."""
    wanted = {name: method for name, method in methods().items() if not name.startswith(TUNED)}

    def gains(found: list[Case]) -> dict[str, Any]:
        figures = evaluate(found, engine, wanted)
        rows = {name: row["ssim_gain"] for name, row in figures["methods"].items() if name != "blurred"}
        return {
            "ssim of y": figures["methods"]["blurred"]["ssim"],
            **rows,
            "psf_snr_db": figures.get("psf_snr_db"),
        }

    return {
        "against noise (sigma)": {f"{s:g}": gains(cases(args, None, noise=s)) for s in NOISES},
        "against aberrations (waves)": {f"{a:g}": gains(cases(args, None, amplitude=a)) for a in AMPLITUDES},
    }


def costs(engine: Engine) -> dict[str, Any]:
    """Return seconds and megabytes for one 400² image, with a known PSF and blind."""
    rng = np.random.default_rng(0)
    image = Image(rng.random((TIMED_PX, TIMED_PX)).astype(np.float32) + 1)
    kernel = draw_kernel(rng)
    ways: dict[str, Callable[[], Any]] = {
        "known PSF": lambda: Deblur(method=DeepBlur()).run(image, kernel, engine=engine)
    }
    if any(model.id == FAMILY for model in list_models()):
        ways["blind"] = lambda: Deblur(method=DeepBlur()).run(image, FAMILY, engine=engine)
    found: dict[str, Any] = {"device": engine.describe()}
    on_card = engine.device == "cuda"
    for name, restore in ways.items():
        seconds = []
        if on_card:
            torch.cuda.reset_peak_memory_stats()
        with Peak() as peak:
            restore()
            for _ in range(REPEATS):
                started = time.perf_counter()
                restore()
                seconds.append(time.perf_counter() - started)
        taken = torch.cuda.max_memory_allocated() if on_card else peak.highest - peak.before
        found[name] = {"seconds": round(float(np.median(seconds)), 4), "peak_mb": round(taken / 1e6)}
    return found


def main() -> None:
    """Run the table, the costs and, where asked, the stability."""
    args = arguments(
        __doc__,
        data={"type": Path, "help": "folder with train_micro; without it photographs alone"},
        images={"type": int, "default": 24},
        seed={"type": int, "default": 11},
        stability={"action": "store_true", "help": "also gains against noise and aberrations"},
    )
    engine = get_engine()
    figures: dict[str, Any] = {"cost of 400 × 400": costs(engine)}
    bars: dict[str, tuple[float, str, float]] = {}
    for level, target in TARGETS.items():
        figures[level] = evaluate(cases(args, target), engine, methods())
        table = figures[level]["methods"]
        for psf in ("true PSF", "estimated PSF"):
            if (name := f"Deep-Blur, {psf}") in table:
                bars[f"{level}: gain in SSIM, {psf}"] = (table[name]["ssim_gain"], "at least", GAINS[level])
                rival = table[f"TV Richardson-Lucy, {psf}"]["ssim"]
                bars[f"{level}: SSIM against TV-RL, {psf}"] = (table[name]["ssim"], "at least", rival)
    if args.stability:
        figures["stability"] = stability(args, engine)
    if engine.device == "cuda" and "blind" in figures["cost of 400 × 400"]:
        bars["seconds, blind"] = (figures["cost of 400 × 400"]["blind"]["seconds"], "at most", 0.03)
    report("Deep-Blur", figures, args.json, bars)


if __name__ == "__main__":
    main()
