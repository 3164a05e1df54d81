"""Tiled against untiled: largest difference as a share of the range, and the cost of tiles.

python -m benchmarks.tiling
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.common import arguments, report
from napari_deblur.engine.shared import get_engine
from napari_deblur.methods.base import registry
from napari_deblur.samples import CAMERA_OFFSET, tilted_cells
from napari_deblur.steps.deblur import Deblur


def main() -> None:
    """Run every method on one sample, with one PSF and with a map."""
    args = arguments(__doc__, size={"type": int, "default": 512}, tile={"type": int, "default": 200})
    sample = tilted_cells(args.size)
    psf_map = sample.psf_map()
    engine = get_engine()
    figures: dict[str, Any] = {"size_px": args.size, "tile_px": args.tile}
    for method in (id_ for id_, cls in registry().items() if cls.family != "zero-shot"):
        for kind, psf in (("one PSF", psf_map.kernels()[0, 0]), ("PSF map", psf_map)):
            seconds, images = [], []
            for tile in (None, args.tile):
                started = time.perf_counter()
                step = Deblur(method=method, camera_offset=CAMERA_OFFSET, tile_px=tile)
                images.append(step.run(sample.image, psf, engine=engine).image.data)
                seconds.append(time.perf_counter() - started)
            difference = float(np.abs(images[0] - images[1]).max() / np.ptp(images[0]))
            figures[f"{method}, {kind}"] = {
                "largest_difference_of_range": float(f"{difference:.2g}"),
                "time_tiled_over_untiled": round(seconds[1] / seconds[0], 2),
            }
    bars = {
        name: (found["largest_difference_of_range"], "at most", 1e-4)
        for name, found in figures.items()
        if isinstance(found, dict) and registry()[name.split(",")[0]].tiles_agree
    }
    report("tiled against untiled", figures, args.json, bars)


if __name__ == "__main__":
    main()
