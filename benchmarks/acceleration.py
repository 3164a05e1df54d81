"""Accelerated Richardson–Lucy: iterations, and transforms, to the likelihood that plain iterations reach.

python -m benchmarks.acceleration [--iterations 100] [--size 256] [--json FILE]

An iteration of the line search takes six Fourier transforms, a plain one four; both counts are reported.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import arguments, report

_TRANSFORMS = {"plain": 4, "line-search": 6}


def scenes(size: int) -> dict[str, NDArray[np.float32]]:
    """Return a photograph, discs of many sizes, and points in a volume."""
    from skimage import data
    from skimage.transform import resize

    rng = np.random.default_rng(0)
    discs = np.full((size, size), 0.01, np.float32)
    rows, cols = np.ogrid[:size, :size]
    for _ in range(size * size // 600):
        y, x, radius = rng.integers(0, size), rng.integers(0, size), rng.integers(1, 7)
        discs[(rows - y) ** 2 + (cols - x) ** 2 < radius**2] += rng.random()
    camera = resize(data.camera(), (size, size), anti_aliasing=True).astype(np.float32) + 0.02
    points = np.full((24, size // 2, size // 2), 0.01, np.float32)
    count = points.size // 2000
    points[tuple(rng.integers(0, n, count) for n in points.shape)] += 20 * rng.random(count)
    return {"photograph": camera, "discs": discs, "points in 3D": points}


def kernels(ndim: int) -> dict[str, NDArray[np.float32]]:
    """Return PSFs of several widths and shapes."""
    from benchmarks.richardson_lucy import gaussian
    from napari_deblur.optics.psf import make_psf
    from napari_deblur.optics.psf_3d import optics_psf_3d
    from napari_deblur.optics.settings import Optics

    if ndim == 3:
        water = Optics(na=1.0, wavelength_um=0.52, pixel_size_um=0.15, z_step_um=0.4, refractive_index=1.33)
        return {"Gaussian": gaussian((9, 11, 11)), "widefield, NA 1.0": optics_psf_3d(water, (13, 25, 25))}
    return {
        "Gaussian, σ 2 px": make_psf("gaussian-1", [2.0]),
        "Gaussian, σ 4 px": make_psf("gaussian-1", [4.0]),
        "defocus and astigmatism": make_psf("zernike-3", [0.3, 0.1, 0.6]),
    }


def iterations_to(target: float, y: Any, blur: Any, most: int) -> int:
    """Return the iterations that a line search takes to a likelihood."""
    from napari_deblur.methods.acceleration import LineSearch
    from napari_deblur.methods.emission import Emission

    search = LineSearch(y, Emission(y, blur))
    for done in range(1, most + 1):
        search.advance()
        if search.likelihood >= target:
            return done
    return most + 1


def main() -> None:
    """Measure every scene with every PSF at two light levels."""
    import torch

    from napari_deblur.blur.convolution import Convolution
    from napari_deblur.core.run import Run
    from napari_deblur.methods.emission import log_likelihood
    from napari_deblur.methods.richardson_lucy import RichardsonLucy

    args = arguments(__doc__, iterations={"type": int, "default": 100}, size={"type": int, "default": 256})
    figures: dict[str, Any] = {"plain_iterations": args.iterations}
    needed = []
    with torch.inference_mode():
        for scene, sharp in scenes(args.size).items():
            for name, kernel in kernels(sharp.ndim).items():
                shape = tuple(n - 2 * (k // 2) for n, k in zip(sharp.shape, kernel.shape, strict=True))
                blur = Convolution(torch.from_numpy(kernel), shape)
                clean = blur.forward(torch.from_numpy(sharp)).clamp_min(0)
                for photons in (100, 10_000):
                    generator = torch.Generator().manual_seed(0)
                    y = torch.poisson(clean / clean.max() * photons, generator=generator) / photons
                    plain = RichardsonLucy(n_iterations=args.iterations).solve(y, blur, Run())
                    target = log_likelihood(y, blur.forward(plain))
                    taken = iterations_to(target, y, blur, args.iterations)
                    needed.append(taken)
                    share = _TRANSFORMS["line-search"] * taken / (_TRANSFORMS["plain"] * args.iterations)
                    figures[f"{scene}, {name}, {photons} photons"] = {
                        "iterations": taken,
                        "transforms_over_plain": round(share, 3),
                    }
    bars = {"most iterations": (float(max(needed)), "at most", 0.2 * args.iterations)}
    report("accelerated Richardson–Lucy", figures, args.json, bars)


if __name__ == "__main__":
    main()
