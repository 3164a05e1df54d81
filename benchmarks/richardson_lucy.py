"""Richardson–Lucy against its own Fourier transforms and against other packages, in 2D and 3D.

python -m benchmarks.richardson_lucy [--iterations 20] [--repeats 5] [--small] [--json FILE]

All contenders restore the same image with the same kernel for the same number of iterations, one after the
other in every round, so that whatever else the machine does meets all of them; figures are medians over the
rounds and ratios of these. "The transforms alone" are the four of an iteration, by torch over the whole grid
at the padded size on which we compute. Packages that do not run here are named with the reason;
benchmarks/rivals.txt lists them. Each result is compared with the textbook loop inside the image, away from
its borders, where packages differ by what they assume beyond it.
"""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import arguments, report
from benchmarks.rivals import Solver, rivals


def scene(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return points and blobs of light on a dim ground."""
    from scipy import ndimage

    rng = np.random.default_rng(0)
    points = np.zeros(shape, np.float32)
    count = max(20, math.prod(shape) // 2000)
    points[tuple(rng.integers(0, size, count) for size in shape)] = rng.uniform(100, 1000, count)
    blurred = ndimage.gaussian_filter(points, 2.0) * 30 + 5
    return (rng.poisson(blurred) / blurred.max()).astype(np.float32)


def gaussian(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return a Gaussian kernel of odd sizes."""
    axes = [np.exp(-0.5 * ((np.arange(n) - n // 2) / (n / 8)) ** 2) for n in shape]
    kernel = axes[0]
    for axis in axes[1:]:
        kernel = np.multiply.outer(kernel, axis)
    return (kernel / kernel.sum()).astype(np.float32)


def ours(image: NDArray[np.float32], kernel: NDArray[np.float32], iterations: int, device: str) -> Solver:
    """Return our loop, the transfer to and from the device included."""
    import torch

    from napari_deblur.blur.convolution import Convolution
    from napari_deblur.core.run import Run
    from napari_deblur.methods.richardson_lucy import RichardsonLucy

    blur = Convolution(torch.from_numpy(kernel).to(device), image.shape)
    method = RichardsonLucy(n_iterations=iterations)

    def solve() -> NDArray[Any]:
        with torch.inference_mode():
            found = blur.crop(method.solve(torch.from_numpy(image).to(device), blur, Run()))
            return found.cpu().numpy()

    return solve


def transforms(
    image: NDArray[np.float32], kernel: NDArray[np.float32], iterations: int, device: str
) -> Solver:
    """Return the four transforms of each iteration and nothing else."""
    import torch

    from napari_deblur.blur.convolution import Convolution

    shape = Convolution(torch.from_numpy(kernel), image.shape).grid_shape
    dims = tuple(range(-len(shape), 0))
    x = torch.rand(shape, device=device)

    def solve() -> NDArray[Any]:
        with torch.inference_mode():
            for _ in range(2 * iterations):
                spectrum = torch.fft.rfftn(x, dim=dims)
                last = torch.fft.irfftn(spectrum, s=shape, dim=dims)
            return last[(0,) * len(shape)].cpu().numpy()

    return solve


def reference(image: NDArray[np.float32], kernel: NDArray[np.float32], iterations: int) -> NDArray[Any]:
    """Return the textbook loop in double precision, on an object that reaches beyond the image."""
    from scipy.signal import fftconvolve

    y, h = image.astype(np.float64), kernel.astype(np.float64)
    flipped = np.flip(h)
    sensitivity = fftconvolve(np.ones_like(y), flipped, mode="full")
    seen = sensitivity > 0.01
    x = y.mean() * seen
    for _ in range(iterations):
        model = np.maximum(fftconvolve(x, h, mode="valid"), 1e-7)
        x = (
            x
            * np.maximum(fftconvolve(y / model, flipped, mode="full"), 0)
            / np.maximum(sensitivity, 0.01)
            * seen
        )
    inner = tuple(slice(k // 2, k // 2 + n) for k, n in zip(h.shape, y.shape, strict=True))
    return np.asarray(x[inner])


def difference(found: NDArray[Any], expected: NDArray[Any], kernel_shape: tuple[int, ...]) -> float:
    """Return the relative root mean square of a result's difference, a kernel's size off the border."""
    inner = tuple(slice(k, n - k) for k, n in zip(kernel_shape, expected.shape, strict=True))
    error = found[inner].astype(np.float64) - expected[inner]
    return float(np.sqrt(np.mean(error**2) / np.mean(expected[inner] ** 2)))


def measured(contenders: dict[str, Solver], repeats: int) -> dict[str, float]:
    """Return the median time of each, interleaved."""
    for solve in contenders.values():
        solve()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, solve in contenders.items():
            started = time.perf_counter()
            solve()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(found) for name, found in seconds.items()}


def main() -> None:
    """Measure both cases."""
    import torch

    args = arguments(
        __doc__,
        iterations={"type": int, "default": 20},
        repeats={"type": int, "default": 5},
        small={"action": "store_true", "help": "small images, to see that all of it runs"},
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cases = {"2D 1024²": ((1024, 1024), (31, 31)), "3D 64×256²": ((64, 256, 256), (17, 21, 21))}
    if args.small:
        cases = {"2D 128²": ((128, 128), (15, 15)), "3D 16×64²": ((16, 64, 64), (7, 9, 9))}
    figures: dict[str, Any] = {"iterations": args.iterations, "device": device}
    bars: dict[str, tuple[float, str, float]] = {}
    for name, (shape, size) in cases.items():
        image, kernel = scene(shape), gaussian(size)
        mine = ours(image, kernel, args.iterations, device)
        expected = reference(image, kernel, args.iterations)
        error = float(np.abs(mine() - expected).max() / expected.max())
        others, absent = rivals(image, kernel, args.iterations)
        contenders = {
            "ours": mine,
            "transforms": transforms(image, kernel, args.iterations, device),
            **others,
        }
        seconds = measured(contenders, args.repeats)
        ratio = seconds["ours"] / seconds["transforms"]
        voxels = math.prod(shape) * args.iterations / seconds["ours"]
        figures[name] = {
            "seconds": {key: float(f"{value:.4g}") for key, value in seconds.items()},
            "ours_over_transforms": round(ratio, 3),
            "others": {
                key: {
                    "times_slower": round(seconds[key] / seconds["ours"], 2),
                    "rms_difference_to_reference": float(f"{difference(solve(), expected, size):.2g}"),
                }
                for key, solve in others.items()
            },
            "not_run": absent,
            "largest_difference_to_reference": float(f"{error:.2g}"),
            "voxels_per_second_and_iteration": float(f"{voxels:.3g}"),
        }
        bars[f"{name}: ours over the transforms"] = (round(ratio, 3), "at most", 1.1)
        bars[f"{name}: difference to the reference"] = (error, "at most", 1e-5)
        skimage = next(key for key in others if key.startswith("scikit-image"))
        bars[f"{name}: times faster than scikit-image"] = (
            round(seconds[skimage] / seconds["ours"], 2), "at least", 3.5,
        )  # fmt: skip
    report("Richardson–Lucy, speed", figures, args.json, bars)


if __name__ == "__main__":
    main()
