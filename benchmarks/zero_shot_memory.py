"""Peak memory of CiDeR against the image's size: linear in pixels, with no tiles to help.

    python -m benchmarks.zero_shot_memory [--sides 512 1024 2048] [--iterations 2] [--json FILE]

Each size runs in a process of its own, whose peak the system tells. What the process takes before the run is
subtracted; the rest per pixel must not grow, and must agree with what the method plans with.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import Any

from benchmarks.common import arguments, report

_GROWTH = 1.15


def one(side: int, iterations: int) -> dict[str, float]:
    """Run one size in this process; return its peak beyond the start, per pixel, and the plan."""
    import numpy as np

    from benchmarks.richardson_lucy import gaussian
    from napari_deblur.core.image import Image
    from napari_deblur.engine.shared import get_engine
    from napari_deblur.methods.cider import Cider
    from napari_deblur.steps.deblur import Deblur

    def run(size: int) -> None:
        method = Cider(n_iterations=iterations, feature_iterations=3, start="hyper-laplacian")
        image = Image(np.random.default_rng(0).random((size, size), dtype=np.float32))
        Deblur(method=method, tile_px=size).run(image, gaussian((15, 15)), engine=get_engine())

    run(64)
    before = _peak_bytes()
    run(side)
    return {
        "bytes_per_px": (_peak_bytes() - before) / side**2,
        "planned_bytes_per_px": Cider().bytes_per_px(1),
        "peak_gb": _peak_bytes() / 1e9,
    }


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Measure every size."""
    args = arguments(
        __doc__,
        sides={"type": int, "nargs": "+", "default": [512, 1024, 2048]},
        iterations={"type": int, "default": 2},
        child={"type": int, "help": "measure this size here and print it"},
    )
    if args.child:
        print(json.dumps(one(args.child, args.iterations)))
        return
    figures: dict[str, Any] = {}
    for side in args.sides:
        command = [sys.executable, "-m", "benchmarks.zero_shot_memory", "--child", str(side)]
        done = subprocess.run(
            [*command, "--iterations", str(args.iterations)], check=True, capture_output=True, text=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
        figures[f"{side}²"] = {name: round(value, 2) for name, value in found.items()}
        print(side, figures[f"{side}²"], flush=True)
    per_px = [entry["bytes_per_px"] for entry in figures.values()]
    planned = next(iter(figures.values()))["planned_bytes_per_px"]
    bars = {
        "largest over smallest size, bytes per pixel": (
            round(per_px[-1] / per_px[0], 3),
            "at most",
            _GROWTH,
        ),
        "largest peak over plan": (round(max(per_px) / planned, 3), "at most", 1.0),
    }
    report("memory of zero-shot restoration", figures, args.json, bars)


if __name__ == "__main__":
    main()
