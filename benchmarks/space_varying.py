"""Space-varying blur by eigen-PSFs: how many a tolerance needs, how exact they are, and what they cost.

* eigen-PSFs: their number by tolerance, and the error of a blurred image against an exact one, in which every
  pixel is spread by the PSF of its own parameters, interpolated to that pixel;
* patches: time of one forward and adjoint for grids of 4 × 4 to 31 × 31 PSFs of the same smooth field;
* TV-Richardson–Lucy: 20 iterations with 15 × 15 PSFs over the time with one, run in turn, medians.

    python -m benchmarks.space_varying
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import arguments, report
from napari_deblur.blur.space_varying import MaskThenConvolve, compress
from napari_deblur.core.image import Image
from napari_deblur.engine.shared import get_engine
from napari_deblur.methods.richardson_lucy import TVRichardsonLucy
from napari_deblur.optics.interpolation import linear_interpolation_matrix
from napari_deblur.optics.psf import family
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.samples import tilted_cells
from napari_deblur.steps.deblur import Deblur

TOLERANCES = (0.1, 0.03, 0.01, 0.003)
GRIDS = (4, 8, 15, 31)
EXACT_PX, EXACT_GRID = 96, 7
N_ITERATIONS = 20
_ROWS_AT_ONCE = 8


def field(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return zernike-3 parameters (…, 3) at places from 0 to 1: a tilted focus behind a cylinder lens."""
    defocus = 0.5 * (y - 0.4) + 0.12 * (x - 0.5)
    axis = np.where(defocus >= 0, 0.4, 0.4 + np.pi / 2)
    return np.stack([np.abs(defocus), np.full_like(defocus, 0.12), axis], axis=-1).astype(np.float32)


def smooth_map(size: int, grid: int) -> PsfMap:
    """Return that field sampled on a grid over an image."""
    at = (np.arange(grid) + 0.5) * size / grid - 0.5
    y, x = np.meshgrid(at, at, indexing="ij")
    parameters = field(y / size, x / size)
    return PsfMap.from_parameters(
        "zernike-3", parameters, centers_px=np.stack([y, x], axis=-1), image_shape=(size, size)
    )


def kernels_at_every_pixel(psf_map: PsfMap) -> NDArray[np.float32]:
    """Return the PSF of every pixel (y, x, h, w), the map's kernels interpolated as the operator does it."""
    height, width = psf_map.image_shape
    by_row = linear_interpolation_matrix(np.arange(height), psf_map.centers_px[:, 0, 0])
    by_col = linear_interpolation_matrix(np.arange(width), psf_map.centers_px[0, :, 1])
    return np.einsum("yr,xc,rchw->yxhw", by_row, by_col, psf_map.kernels(), optimize=True).astype(np.float32)


def true_kernels(size: int) -> NDArray[np.float32]:
    """Return the PSF of every pixel (y, x, h, w) from the field itself."""
    at = np.arange(size) / size + 0.5 / size
    y, x = np.meshgrid(at, at, indexing="ij")
    parameters = torch.from_numpy(field(y, x))
    rows = parameters.split(_ROWS_AT_ONCE)
    return torch.cat([family("zernike-3").kernels(part) for part in rows]).numpy()


def spread(image: NDArray[np.float32], kernels: NDArray[np.float32]) -> NDArray[np.float64]:
    """Spread every pixel of an image (y, x) by its own kernel; what leaves the image is lost."""
    size, half = kernels.shape[-1], kernels.shape[-1] // 2
    height, width = image.shape
    canvas = np.zeros((height + 2 * half, width + 2 * half))
    for dy, dx in np.ndindex(size, size):
        canvas[dy : dy + height, dx : dx + width] += image * kernels[:, :, dy, dx]
    return canvas[half : half + height, half : half + width]


def blurred(psf_map: PsfMap, image: NDArray[np.float32], tolerance: float) -> tuple[NDArray[np.float32], int]:
    """Blur by eigen-PSFs an image that is dark beyond its border; return it and their number."""
    centers = psf_map.centers_px
    eigen = compress(psf_map.kernels(), centers[:, 0, 0], centers[0, :, 1], tolerance=tolerance)
    blur = MaskThenConvolve(eigen, psf_map.image_shape)
    margin = blur.margin[0]
    framed = torch.from_numpy(np.pad(image, margin))
    return blur.forward(framed).numpy(), len(eigen.kernels)


def exactness() -> dict[str, Any]:
    """Return number and error by tolerance."""
    psf_map = smooth_map(EXACT_PX, EXACT_GRID)
    image = np.random.default_rng(3).random((EXACT_PX, EXACT_PX)).astype(np.float32) ** 8
    exact, true = spread(image, kernels_at_every_pixel(psf_map)), spread(image, true_kernels(EXACT_PX))

    def error(found: NDArray[np.floating[Any]], wanted: NDArray[np.float64]) -> float:
        return float(f"{np.linalg.norm(found - wanted) / np.linalg.norm(wanted):.3g}")

    result: dict[str, Any] = {}
    for tolerance in TOLERANCES:
        found, count = blurred(psf_map, image, tolerance)
        result[f"{tolerance:g}"] = {
            "eigen_psfs": count,
            "of_psfs": EXACT_GRID**2,
            "error_against_interpolated_psfs": error(found, exact),
            "error_against_true_psfs": error(found, true),
        }
    result["interpolation_alone"] = error(exact, true)
    return result


def interleaved(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median time of each, run in turn after a first round that does not count."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                spent[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in spent.items()}


def cost_of_patches(size: int, repeats: int) -> dict[str, Any]:
    """Return the time of a forward and an adjoint by the number of PSFs."""
    device = get_engine().device
    blurs: dict[str, MaskThenConvolve] = {}
    for grid in GRIDS:
        psf_map = smooth_map(size, grid)
        centers = psf_map.centers_px
        eigen = compress(psf_map.kernels(), centers[:, 0, 0], centers[0, :, 1], tolerance=0.01)
        blurs[f"{grid} × {grid}"] = MaskThenConvolve(eigen, (size, size), device=device)

    def work(blur: MaskThenConvolve) -> Callable[[], Any]:
        x = torch.rand(blur.object_shape, device=device)
        return lambda: blur.adjoint(blur.forward(x))

    with torch.inference_mode():
        spent = interleaved({name: work(blur) for name, blur in blurs.items()}, repeats)
    result: dict[str, Any] = {
        name: {"eigen_psfs": blur.n_kernels, "seconds": round(spent[name], 5)} for name, blur in blurs.items()
    }
    result["slowest_over_fastest"] = round(max(spent.values()) / min(spent.values()), 2)
    return result


def restoration(size: int, repeats: int) -> dict[str, Any]:
    """Return the time of TV-RL with 15 × 15 PSFs against one."""
    sample = tilted_cells(size)
    image = Image(sample.image.data)
    psf_map, engine = smooth_map(size, 15), get_engine()
    one = psf_map.kernels()[7, 7]
    step = Deblur(method=TVRichardsonLucy(n_iterations=N_ITERATIONS))
    spent = interleaved(
        {
            "one_psf": lambda: step.run(image, one, engine=engine),
            "psf_map": lambda: step.run(image, psf_map, engine=engine),
        },
        repeats,
    )
    record = step.run(image, psf_map, engine=engine).record
    return {
        "one_psf_s": round(spent["one_psf"], 3),
        "psfs_15_x_15_s": round(spent["psf_map"], 3),
        "ratio": round(spent["psf_map"] / spent["one_psf"], 2),
        "facts": {name: value for name, value in record.facts.items() if name.startswith("eigen")},
    }


def main() -> None:
    """Run all three."""
    args = arguments(
        __doc__, size={"type": int, "default": 512}, repeats={"type": int, "default": 5, "help": "timed runs"}
    )
    figures = {
        "size_px": args.size,
        "by tolerance": exactness(),
        "by number of PSFs": cost_of_patches(args.size, args.repeats),
        "TV-Richardson–Lucy": restoration(args.size, args.repeats),
    }
    bars = {
        "error at the tolerance 0.01": (
            figures["by tolerance"]["0.01"]["error_against_interpolated_psfs"],
            "at most",
            0.01,
        ),
        "time, slowest over fastest number of PSFs": (
            figures["by number of PSFs"]["slowest_over_fastest"],
            "at most",
            1.3,
        ),
        "TV-RL, 15 × 15 PSFs over one": (figures["TV-Richardson–Lucy"]["ratio"], "at most", 6.0),
    }
    report("space-varying blur", figures, args.json, bars)


if __name__ == "__main__":
    main()
