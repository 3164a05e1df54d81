"""Cost against size: time and memory per voxel from small images to large ones, in 2D and 3D.

python -m benchmarks.scaling [--iterations 3] [--largest 8192] [--largest-mb 512] [--json FILE]

Whole runs through the step, tiles included where the memory asks for them. The planned memory is compared
with what the process took at its peak.
"""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import numpy as np

from benchmarks.common import arguments, report
from benchmarks.richardson_lucy import gaussian


class Peak:
    """Watches this process's memory."""

    def __enter__(self) -> Peak:
        import psutil

        self._process, self._going = psutil.Process(), True
        self.before = self.highest = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while self._going:
            self.highest = max(self.highest, self._process.memory_info().rss)
            time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        self._going = False
        self._thread.join()


def main() -> None:
    """Measure 2D sizes, then 3D ones."""
    from napari_deblur.core.image import Image
    from napari_deblur.engine.shared import get_engine
    from napari_deblur.steps.deblur import Deblur

    args = arguments(
        __doc__,
        iterations={"type": int, "default": 3},
        largest={"type": int, "default": 8192, "help": "side of the largest 2D image"},
        largest_mb={"type": int, "default": 512, "help": "size of the largest volume (float32)"},
    )
    shapes: list[tuple[int, ...]] = [(side, side) for side in (256, 512, 1024, 2048, 4096, 8192)]
    shapes = [shape for shape in shapes if shape[0] <= args.largest]
    for megabytes in (16, 32, 64, 128, 256, 512):
        if megabytes <= args.largest_mb:
            planes = megabytes * 10**6 // (4 * 256 * 256)
            shapes.append((64, 256, planes * 4) if planes > 64 else (64, 256, 256))
    step = Deblur(method={"kind": "richardson-lucy", "n_iterations": args.iterations})
    engine = get_engine()
    figures: dict[str, Any] = {"iterations": args.iterations, "device": engine.describe()}
    costs: dict[int, list[float]] = {2: [], 3: []}
    rng = np.random.default_rng(0)
    warm = Image(rng.random((64, 64)).astype(np.float32))
    step.run(warm, gaussian((9, 9)), engine=engine)
    for shape in shapes:
        kernel = gaussian((21, 21) if len(shape) == 2 else (9, 13, 13))
        image = Image(rng.random(shape, dtype=np.float32) + 0.1)
        plan = step.plan(image, kernel, engine=engine)
        seconds = []
        with Peak() as peak:
            # A run that takes milliseconds has to be seen often before nothing else disturbed it.
            for _ in range(min(max(2**25 // math.prod(shape), 1), 20)):
                started = time.perf_counter()
                step.run(image, kernel, engine=engine)
                seconds.append(time.perf_counter() - started)
        cost = min(seconds) / math.prod(shape) / args.iterations
        costs[len(shape)].append(cost)
        figures[" × ".join(str(size) for size in shape)] = {
            "nanoseconds_per_voxel_and_iteration": round(cost * 1e9, 1),
            "tiles": plan.tiles.n_tiles,
            "planned_mb": round(plan.bytes / 1e6),
            "peak_mb": round((peak.highest - peak.before + image.data.nbytes) / 1e6),
        }
    bars = {
        f"{ndim}D: dearest over cheapest voxel": (round(max(found) / min(found), 2), "at most", 2.0)
        for ndim, found in costs.items()
        if len(found) > 1
    }
    report("cost against size", figures, args.json, bars)


if __name__ == "__main__":
    main()
