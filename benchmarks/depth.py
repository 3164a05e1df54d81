"""Depth of rendered tilted grids: calibrated on one grid at 10°, measured on others at 3°, 6° and 10°.

Field and tilts are those of Shajkofci & Liebling 2020 (doi:10.1109/TIP.2020.2986880), Table VI, whose grids
were real; ours are rendered with known PSFs, so the figures are not comparable one to one.

    python -m benchmarks.depth
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.common import arguments, report
from napari_deblur.core.run import Run
from napari_deblur.engine.engine import get_engine
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.samples import Sample, tilted_grid
from napari_deblur.steps.calibration import DepthCalibration
from napari_deblur.steps.depth import EstimateDepth
from napari_deblur.steps.psf_map import EstimatePsfMap

TILTS_DEG = (3.0, 6.0, 10.0)
# The steepest, so that the calibration spans all depths that are measured.
CALIBRATION_TILT_DEG = 10.0
CALIBRATION_SEED, TEST_SEED = 11, 12


def estimated_map(sample: Sample, stride_px: int) -> PsfMap:
    """Return the map that the network reads off the sample."""
    step = EstimatePsfMap(model="zernike-3", stride_px=stride_px)
    found = step.run(sample.image, engine=get_engine(), optics=sample.optics)
    assert isinstance(found, PsfMap)
    return found


def measure(sample: Sample, calibration: DepthCalibration, stride_px: int) -> dict[str, Any]:
    """Return the error of the depth of one sample."""
    run = Run()
    result = EstimateDepth().run(
        estimated_map(sample, stride_px), calibration=calibration, image=sample.image, run=run
    )
    seen = np.isfinite(result.depth_um)
    truth, found = sample.depth_um[seen], result.depth_um[seen]
    error = np.abs(found - truth)
    span = float(np.ptp(sample.depth_um))
    return {
        "depth_range_um": round(span, 1),
        "mean_error_um": round(float(error.mean()), 3),
        "sd_error_um": round(float(error.std()), 3),
        "share_of_range": round(float(error.mean()) / span, 4),
        "r2": round(float(1 - np.sum((found - truth) ** 2) / np.sum((truth - truth.mean()) ** 2)), 4),
        "seen_share": round(float(seen.mean()), 3),
        "notes": run.notes,
    }


def main() -> None:
    """Run all tilts."""
    args = arguments(
        __doc__, size={"type": int, "default": 1024}, stride={"type": int, "default": 64, "help": "pixels"}
    )
    plane = tilted_grid(args.size, tilt_deg=CALIBRATION_TILT_DEG, seed=CALIBRATION_SEED)
    calibration = DepthCalibration.from_tilted_plane(
        estimated_map(plane, args.stride), tilt_deg=CALIBRATION_TILT_DEG, azimuth_deg=90.0
    )
    figures: dict[str, Any] = {}
    for tilt in TILTS_DEG:
        sample = tilted_grid(args.size, tilt_deg=tilt, seed=TEST_SEED)
        figures[f"{tilt:g}°"] = measure(sample, calibration, args.stride)
    bars = {
        f"{tilt}: mean error as a share of the range": (found["share_of_range"], "at most", 0.03)
        for tilt, found in figures.items()
    }
    settings = {"size_px": args.size, "stride_px": args.stride}
    report("depth of a tilted grid", settings | figures, args.json, bars)


if __name__ == "__main__":
    main()
