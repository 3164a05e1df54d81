"""Depth of rendered grids, tilted by 3°, 6° and 10° and on a dome, calibrated in three ways.

'plane': the calibration is fitted to the known plane of one half of the sample and measured on the other,
and the other way round, with patches across the middle left out. Shajkofci & Liebling 2020
(doi:10.1109/TIP.2020.2986880, §III-E) fit a line to the sample that they measure. 'grid': the calibration
comes from one other grid of another texture at 10°, so that what textures do to the readings counts too.
'grids': from that and two more, which differ among each other as much as from the sample.
Field and tilts are those of their Table VI, whose grids were real; ours are rendered with known PSFs, so
figures are not comparable one to one.

    python -m benchmarks.depth
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import arguments, report
from napari_deblur.core.run import Run
from napari_deblur.engine.shared import get_engine
from napari_deblur.nets.identification import PATCH_PX
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.samples import Sample, domed_grid, tilted_grid
from napari_deblur.steps.calibration import DepthCalibration
from napari_deblur.steps.depth import EstimateDepth
from napari_deblur.steps.psf_map import EstimatePsfMap

TILTS_DEG = (3.0, 6.0, 10.0)
# The steepest, so that the calibration spans all depths that are measured.
CALIBRATION_TILT_DEG = 10.0
CALIBRATION_SEEDS, TEST_SEED = (11, 21, 31), 12
AZIMUTH_DEG = 90.0
DOME_UM = 80.0
BARS = {"plane": 0.01, "grid": 0.03, "grids": 0.03}


def estimated_map(sample: Sample, stride_px: int) -> PsfMap:
    """Return the map that the network reads off the sample."""
    step = EstimatePsfMap(model="zernike-3", stride_px=stride_px)
    found = step.run(sample.image, engine=get_engine(), optics=sample.optics)
    assert isinstance(found, PsfMap)
    return found


def half(psf_map: PsfMap, first: bool) -> PsfMap:
    """Return the left or the right columns of a map, without those whose patches cross the middle."""
    middle, reach = psf_map.image_shape[1] / 2, PATCH_PX / 2
    x = psf_map.centers_px[0, :, 1]
    kept = x <= middle - reach if first else x >= middle + reach
    names = ("parameters", "centers_px", "valid", "confidence", "predicted_error", "signed_defocus_waves")
    arrays = {name: getattr(psf_map, name) for name in names}
    return replace(psf_map, **{name: None if a is None else a[:, kept] for name, a in arrays.items()})


def depth_by_halves(psf_map: PsfMap, tilt_deg: float, run: Run) -> NDArray[np.float32]:
    """Return the depth of each half, calibrated on the other."""
    width = psf_map.image_shape[1]
    depth = np.full(psf_map.image_shape, np.nan, np.float32)
    for first in (True, False):
        calibration = DepthCalibration.from_tilted_plane(
            half(psf_map, first), tilt_deg=tilt_deg, azimuth_deg=AZIMUTH_DEG
        )
        found = EstimateDepth().run(half(psf_map, not first), calibration=calibration, run=run).depth_um
        columns = slice(width // 2, None) if first else slice(0, width // 2)
        depth[:, columns] = found[:, columns]
    return depth


def measure(depth_um: NDArray[np.float32], sample: Sample, run: Run) -> dict[str, Any]:
    """Return the error of the depth of one sample."""
    seen = np.isfinite(depth_um)
    truth, found = sample.depth_um[seen], depth_um[seen]
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
    """Run all tilts with all calibrations."""
    args = arguments(
        __doc__, size={"type": int, "default": 1024}, stride={"type": int, "default": 64, "help": "pixels"}
    )
    planes = [
        estimated_map(tilted_grid(args.size, tilt_deg=CALIBRATION_TILT_DEG, seed=seed), args.stride)
        for seed in CALIBRATION_SEEDS
    ]
    others = {
        name: DepthCalibration.from_tilted_plane(maps, tilt_deg=CALIBRATION_TILT_DEG, azimuth_deg=AZIMUTH_DEG)
        for name, maps in (("grid", planes[:1]), ("grids", planes))
    }
    figures: dict[str, Any] = {}
    for tilt in TILTS_DEG:
        sample, run = tilted_grid(args.size, tilt_deg=tilt, seed=TEST_SEED), Run()
        psf_map = estimated_map(sample, args.stride)
        figures[f"{tilt:g}°, plane"] = measure(depth_by_halves(psf_map, tilt, run), sample, run)
        for name, calibration in others.items():
            run = Run()
            depth = EstimateDepth().run(psf_map, calibration=calibration, run=run).depth_um
            figures[f"{tilt:g}°, {name}"] = measure(depth, sample, run)
    dome = domed_grid(args.size, height_um=DOME_UM, seed=TEST_SEED)
    psf_map = estimated_map(dome, args.stride)
    for name, calibration in others.items():
        run = Run()
        depth = EstimateDepth().run(psf_map, calibration=calibration, run=run).depth_um
        figures[f"dome, {name}"] = measure(depth, dome, run)
    bars = {
        f"{case}: mean error as a share of the range": (
            found["share_of_range"],
            "at most",
            BARS[case.split(", ")[1]],
        )
        for case, found in figures.items()
    }
    settings = {"size_px": args.size, "stride_px": args.stride}
    report("depth of a tilted grid", settings | figures, args.json, bars)


if __name__ == "__main__":
    main()
