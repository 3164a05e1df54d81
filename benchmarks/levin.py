"""Levin benchmark: real camera shake with measured kernels, all methods side by side, per image and kernel.

Images 1 and 2 of Levin, Weiss, Durand & Freeman 2009 (doi:10.1109/CVPR.2009.5206815) with 8 kernels each,
oriented for true convolution. The estimate is aligned with the reference in quarter pixels within ±10 pixels
(kernels are off centre), 16 pixels are cut off on every side, then PSNR (range 1) and SSIM are computed.
Parameters are the same for all pairs and were not chosen on them.

    python -m benchmarks.levin --data ../shared/data/bench_levin --json benchmarks/results/levin.json

Every pair is kept in the JSON file as soon as it is done; a second call goes on from there.
``--pairs 1-4 2-7`` and ``--methods hyper-laplacian cider`` pick some.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import environment, report
from napari_deblur.core.image import Image
from napari_deblur.engine.engine import Engine
from napari_deblur.methods.base import make_method
from napari_deblur.quality import psnr_db, ssim
from napari_deblur.steps.deblur import Deblur

Array = NDArray[np.float32]

CROP_PX, REACH_PX = 16, 10
_PAD_PX = 16
PAIRS = [f"{image}-{kernel}" for image in (1, 2) for kernel in range(1, 9)]
METHODS: dict[str, dict[str, Any]] = {
    "wiener": {"kind": "wiener"},
    "richardson-lucy": {"kind": "richardson-lucy", "n_iterations": 100},
    "tv-richardson-lucy": {"kind": "tv-richardson-lucy", "n_iterations": 200, "tv_weight": 0.002},
    "hyper-laplacian": {"kind": "hyper-laplacian"},
    "cider": {"kind": "cider"},
    "self-deblur": {"kind": "self-deblur", "psf_size_px": 27},
    "cider, as published": {
        "kind": "cider",
        "start": "nothing",
        "data_term": "ssim",
        "n_iterations": 3000,
        "stop": "iterations",
        "averaging": 0.0,
    },
    "self-deblur, as published": {
        "kind": "self-deblur",
        "psf_size_px": 27,
        "network": "published",
        "n_iterations": 5000,
        "hessian_weight": 0.0,
        "averaging": 0.0,
    },
}
# Take many times as long as all others together, the second one hours without a GPU; run when named.
ON_REQUEST = ("cider, as published", "self-deblur, as published")
BLIND = ("self-deblur", "self-deblur, as published")
# Published for CiDeR over all four images; what this package set itself for images 1 and 2.
BARS = {"cider": (31.5, 0.91), "best": (33.6, 0.942)}


def read_pair(folder: Path, pair: str) -> tuple[Array, Array, Array]:
    """Return (blurred, sharp, kernel); images in 0 to 1."""
    from skimage.io import imread

    image, kernel = pair.split("-")
    blurred = imread(folder / "blurred" / f"im{image}_k{kernel}.png").astype(np.float32) / 255
    sharp = imread(folder / "sharp" / f"im{image}.png").astype(np.float32) / 255
    return blurred, sharp, np.load(folder / "kernels" / f"k{kernel}.npy")


def align(estimate: Array, reference: Array) -> tuple[Array, tuple[float, float]]:
    """Move an estimate onto a reference in quarter pixels; return its inner part and the shift.

    The best whole shift is found by trying all, then the best quarters around it. Shifts are exact (by
    phases of the spectrum): a spline would smooth a noisy estimate and so flatter it.
    """
    inner = (slice(CROP_PX, -CROP_PX), slice(CROP_PX, -CROP_PX))
    wanted = reference[inner]

    def error_of_whole(dy: int, dx: int) -> float:
        height, width = estimate.shape
        rows, cols = slice(CROP_PX - dy, height - CROP_PX - dy), slice(CROP_PX - dx, width - CROP_PX - dx)
        return float(np.mean((estimate[rows, cols] - wanted) ** 2))

    whole = range(-REACH_PX, REACH_PX + 1)
    y0, x0 = min(((dy, dx) for dy in whole for dx in whole), key=lambda shift: error_of_whole(*shift))
    spectrum, frequencies = _spectrum(estimate)
    best, best_error, best_shift = estimate[inner], float("inf"), (0.0, 0.0)
    quarters = np.arange(-4, 5) / 4
    for dy in np.clip(y0 + quarters, -REACH_PX, REACH_PX):
        for dx in np.clip(x0 + quarters, -REACH_PX, REACH_PX):
            phase = np.exp(-2j * np.pi * (frequencies[0] * dy + frequencies[1] * dx))
            moved = np.fft.irfft2(spectrum * phase, s=_padded(estimate))[_PAD_PX:-_PAD_PX, _PAD_PX:-_PAD_PX][
                inner
            ]
            error = float(np.mean((moved - wanted) ** 2))
            if error < best_error:
                best, best_error, best_shift = moved.astype(np.float32), error, (float(dy), float(dx))
    return best, best_shift


def _padded(image: Array) -> tuple[int, int]:
    height, width = image.shape
    return height + 2 * _PAD_PX, width + 2 * _PAD_PX


def _spectrum(image: Array) -> tuple[NDArray[Any], tuple[NDArray[Any], NDArray[Any]]]:
    """Return the spectrum of an image continued by reflection, and its frequencies along y and x."""
    padded = np.pad(image, _PAD_PX, mode="reflect")
    frequencies = np.fft.fftfreq(padded.shape[0])[:, None], np.fft.rfftfreq(padded.shape[1])[None, :]
    return np.fft.rfft2(padded), frequencies


def score(estimate: Array, reference: Array) -> dict[str, Any]:
    """Return PSNR, SSIM and the shift of one estimate."""
    moved, shift = align(np.clip(estimate, 0, 1), reference)
    wanted = reference[CROP_PX:-CROP_PX, CROP_PX:-CROP_PX]
    return {
        "psnr_db": round(psnr_db(moved, wanted, 1.0), 3),
        "ssim": round(ssim(moved, wanted, 1.0), 4),
        "shift_px": shift,
    }


def run_pair(folder: Path, pair: str, name: str, engine: Engine) -> dict[str, Any]:
    """Restore one pair with one method and score it."""
    blurred, sharp, kernel = read_pair(folder, pair)
    step = Deblur(method=make_method(METHODS[name]))
    started = time.perf_counter()
    result = step.run(Image(blurred), None if name in BLIND else kernel, engine=engine)
    seconds = time.perf_counter() - started
    facts = {key: value for key, value in result.record.facts.items() if not key.startswith("flux")}
    # The record's step holds every parameter, so that an old result is told from one with other defaults.
    return {
        **score(result.image.data, sharp),
        "seconds": round(seconds, 2),
        "method": result.record.step["method"],
        "facts": facts,
    }


def means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean figures of some pairs."""
    return {
        "psnr_db": round(float(np.mean([row["psnr_db"] for row in rows])), 3),
        "ssim": round(float(np.mean([row["ssim"] for row in rows])), 4),
        "seconds": round(float(np.mean([row["seconds"] for row in rows])), 2),
        "pairs": len(rows),
    }


def summary(pairs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return means per method: over all pairs, per image and per kernel."""
    found = {}
    for name, rows in pairs.items():
        if not rows:
            continue
        found[name] = {"all": means(list(rows.values()))}
        for position, label in ((0, "image"), (1, "kernel")):
            for value in sorted({pair.split("-")[position] for pair in rows}):
                chosen = [row for pair, row in rows.items() if pair.split("-")[position] == value]
                found[name][f"{label} {value}"] = means(chosen)
    return found


def bars(found: dict[str, Any]) -> dict[str, tuple[float, str, float]]:
    """Return what the methods with all pairs done must reach."""
    done = {name: rows["all"] for name, rows in found.items() if rows["all"]["pairs"] == len(PAIRS)}
    held: dict[str, tuple[float, str, float]] = {}
    if "cider" in done:
        held["cider: PSNR, dB"] = (done["cider"]["psnr_db"], "at least", BARS["cider"][0])
        held["cider: SSIM"] = (done["cider"]["ssim"], "at least", BARS["cider"][1])
        if "tv-richardson-lucy" in done:
            lead = done["cider"]["psnr_db"] - done["tv-richardson-lucy"]["psnr_db"]
            held["cider over tv-richardson-lucy, dB"] = (round(lead, 3), "at least", -0.2)
    if done:
        best = max(done.values(), key=lambda row: row["psnr_db"])
        held["best method: PSNR, dB"] = (best["psnr_db"], "at least", BARS["best"][0])
        held["best method: SSIM"] = (best["ssim"], "at least", BARS["best"][1])
    return held


def main() -> None:
    """Run what is not done yet, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with blurred, sharp and kernels")
    parser.add_argument("--pairs", nargs="+", default=PAIRS, choices=PAIRS, metavar="IMAGE-KERNEL")
    default = [name for name in METHODS if name not in ON_REQUEST]
    parser.add_argument("--methods", nargs="+", default=default, choices=list(METHODS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--again", action="store_true", help="run also what the file holds already")
    parser.add_argument("--json", type=Path, help="file with the figures; pairs in it are not run again")
    args = parser.parse_args()
    pairs: dict[str, dict[str, Any]] = {}
    if args.json is not None and args.json.is_file():
        pairs = json.loads(args.json.read_text(encoding="utf-8"))["figures"]["pairs"]
    engine = Engine(args.device)
    for name in args.methods:
        rows = pairs.setdefault(name, {})
        wanted = json.loads(make_method(METHODS[name]).model_dump_json())
        for pair in args.pairs:
            if not args.again and pair in rows and rows[pair]["settings"] == wanted:
                continue
            rows[pair] = {**run_pair(args.data, pair, name, engine), "settings": wanted}
            print(f"{name} {pair}: {rows[pair]['psnr_db']:.2f} dB, {rows[pair]['ssim']:.4f}", flush=True)
            if args.json is not None:
                content = {"case": "levin", "figures": {"pairs": pairs}, "environment": environment()}
                args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    found = summary(pairs)
    report("levin", {"means": found, "pairs": pairs}, args.json, bars(found))


if __name__ == "__main__":
    main()
