"""Richardson–Lucy on a GPU: voxels a second and iteration, against the memory's speed, plain torch and CuPy.

python -m benchmarks.gpu [--iterations 20] [--repeats 5] [--small] [--json FILE]

The memory's speed is that of copying a large array. The least traffic of an iteration is what its four
transforms (each axis read and written once), its two products and its two element-wise parts read and write.
Without a GPU everything runs on the CPU, which shows that the case works and says nothing of its bars.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import arguments, report
from benchmarks.richardson_lucy import gaussian, reference, scene

Loop = Callable[[], Any]
_FLOAT = 4


def ours(y: Any, kernel: Any, iterations: int) -> Loop:
    """Return our loop on an image that is on the device already."""
    from napari_deblur.blur.convolution import Convolution
    from napari_deblur.core.run import Run
    from napari_deblur.methods.richardson_lucy import RichardsonLucy

    blur = Convolution(kernel, tuple(y.shape))
    method = RichardsonLucy(n_iterations=iterations)
    return lambda: blur.crop(method.solve(y, blur, Run()))


def plain(y: Any, kernel: Any, iterations: int, fft: Any, xp: Any) -> Loop:
    """Return the textbook loop on our grid, in torch or CuPy as their tutorials would write it."""
    from napari_deblur.blur.convolution import fft_shape

    margin = [size // 2 for size in kernel.shape]
    shape = fft_shape(tuple(n + 2 * m for n, m in zip(y.shape, margin, strict=True)))
    image = tuple(slice(m, m + n) for m, n in zip(margin, y.shape, strict=True))

    def loop() -> Any:
        h = xp.zeros(shape, dtype=y.dtype)
        h[tuple(slice(0, size) for size in kernel.shape)] = kernel
        transfer = fft.rfftn(xp.roll(h, tuple(-m for m in margin), tuple(range(h.ndim))))
        seen = xp.zeros(shape, dtype=y.dtype)
        seen[image] = 1
        data = xp.zeros(shape, dtype=y.dtype)
        data[image] = y
        sensitivity = fft.irfftn(fft.rfftn(seen) * transfer.conj(), s=shape).clip(0.01)
        x = xp.zeros_like(data) + y.mean()
        for _ in range(iterations):
            model = fft.irfftn(fft.rfftn(x) * transfer, s=shape).clip(1e-7)
            x = x * fft.irfftn(fft.rfftn(data / model) * transfer.conj(), s=shape).clip(0) / sensitivity
        return x[image]

    return loop


def contenders(
    image: NDArray[np.float32], kernel: NDArray[np.float32], iterations: int, device: str
) -> dict[str, Loop]:
    """Return the loops that run here."""
    import torch

    y, h = torch.from_numpy(image).to(device), torch.from_numpy(kernel).to(device)
    found = {"ours": ours(y, h, iterations)}
    on_device = _Torch(device)
    found["plain torch"] = plain(y, h, iterations, torch.fft, on_device)
    try:
        import cupy
    except ImportError:
        return found
    if device == "cuda":
        found["CuPy"] = plain(cupy.asarray(image), cupy.asarray(kernel), iterations, cupy.fft, cupy)
    return found


class _Torch:
    """Torch's functions, making arrays on a device."""

    def __init__(self, device: str) -> None:
        self.device = device

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        import torch

        return torch.zeros(shape, dtype=dtype, device=self.device)

    def __getattr__(self, name: str) -> Any:
        import torch

        return getattr(torch, name)


def least_bytes(grid_shape: tuple[int, ...]) -> float:
    """Return what one iteration must read and write at least."""
    arrays = 4 * 2 * len(grid_shape) + 2 * 3 + 3 + 4
    return float(_FLOAT * arrays * math.prod(grid_shape))


def bytes_per_second(device: str, count: int) -> float:
    """Return the speed of reading and writing memory."""
    import torch

    here = torch.ones(count, device=device)
    there = torch.empty_like(here)
    return 2 * _FLOAT * count / seconds(lambda: there.copy_(here), 7, device)


def seconds(work: Loop, repeats: int, device: str) -> float:
    """Return the median time, waiting for the device."""
    import torch

    taken = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])  # the first one warms up


def main() -> None:
    """Measure a plane and two volumes."""
    import torch

    from napari_deblur.blur.convolution import Convolution

    args = arguments(
        __doc__,
        iterations={"type": int, "default": 20},
        repeats={"type": int, "default": 5},
        small={"action": "store_true", "help": "small images, to see that all of it runs"},
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cases = [((4096, 4096), (31, 31)), ((64, 256, 256), (17, 21, 21)), ((128, 1024, 1024), (17, 21, 21))]
    if args.small:
        cases = [((128, 128), (15, 15)), ((16, 64, 64), (7, 9, 9))]
    speed = bytes_per_second(device, 2**22 if args.small else 2**28)
    figures: dict[str, Any] = {"device": device, "memory_gb_per_s": round(speed / 1e9, 1)}
    bars: dict[str, tuple[float, str, float]] = {}
    for shape, size in cases:
        image, kernel = scene(shape), gaussian(size)
        grid = Convolution(torch.from_numpy(kernel), shape).grid_shape
        expected = reference(image, kernel, 2)
        name = " × ".join(str(n) for n in shape)
        figures[name] = {}
        with torch.inference_mode():
            short = contenders(image, kernel, 2, device)["ours"]()
            error = float(np.abs(short.cpu().numpy() - expected).max() / expected.max())
            for key, loop in contenders(image, kernel, args.iterations, device).items():
                taken = seconds(loop, args.repeats, device) / args.iterations
                figures[name][key] = {
                    "voxels_per_second_and_iteration": float(f"{math.prod(shape) / taken:.3g}"),
                    "share_of_memory_speed": round(least_bytes(grid) / taken / speed, 3),
                }
        bars[f"{name}: difference to the reference after 2 iterations"] = (error, "at most", 1e-5)
    report("Richardson–Lucy on a GPU", figures, args.json, bars)


if __name__ == "__main__":
    main()
