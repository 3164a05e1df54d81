"""The main job on a rendered sample whose truth is known, from the raw image to the exported surface."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from napari_deblur.core.image import FloatArray, Image
from napari_deblur.core.run import Run
from napari_deblur.engine.engine import Engine
from napari_deblur.engine.shared import get_engine
from napari_deblur.io.mesh import write_mesh
from napari_deblur.io.write import write_depth, write_image, write_json
from napari_deblur.methods.base import make_method
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.quality import snr_db, ssim
from napari_deblur.recipe import Recipe
from napari_deblur.report import Panel, mosaic, write_report
from napari_deblur.samples import CAMERA_OFFSET, Sample, tilted_cells, tilted_grid
from napari_deblur.steps.background import BackgroundResult, RemoveBackground
from napari_deblur.steps.calibration import DepthCalibration
from napari_deblur.steps.deblur import Deblur, DeblurResult
from napari_deblur.steps.depth import DepthResult, EstimateDepth
from napari_deblur.steps.psf_map import EstimatePsfMap

# The haze is strong and the brightest pixel of the sample stands for about 1,500 photons.
BACKGROUND = RemoveBackground(count_scale=1500.0, low_snr_clip="mean/2.5")
_TILT_DEG = 12.0
_STRIDE_PX = 32
_MOSAIC_PSFS = 8
_STAGES = 8


def run_demo(out_dir: Path, run: Run | None = None) -> dict[str, Any]:
    """Run every stage on a sample, write all results into a folder and return what was found.

    Parameters
    ----------
    out_dir : Path
        An existing folder; files of an earlier demo in it are replaced.
    run : Run, optional

    Returns
    -------
    dict
        Figures and the names of the files, JSON types.
    """
    run = run or Run()
    started = time.perf_counter()
    engine = get_engine()
    out_dir = Path(out_dir)

    def stage(number: int, message: str) -> Run:
        run.step(number, _STAGES, message)
        return run.part(number, number + 1, _STAGES)

    stage(0, "rendering the sample")
    sample = tilted_cells(512, tilt_deg=_TILT_DEG)
    calibration = _calibrate(engine, stage(1, "calibrating depth on a tilted grid"))
    split = BACKGROUND.run(sample.image, run=stage(2, "removing the background"))
    estimate = EstimatePsfMap(model="zernike-3", stride_px=_STRIDE_PX)
    psf_map = estimate.run(split.image, engine=engine, run=stage(3, "mapping the PSF"), optics=sample.optics)
    assert isinstance(psf_map, PsfMap)
    step = Deblur(method=make_method("tv-richardson-lucy"))
    blind = step.run(split.image, psf_map, engine=engine, run=stage(4, "deblurring with the estimated map"))
    known = step.run(
        split.image, sample.psf_map(_STRIDE_PX), engine=engine, run=stage(5, "deblurring with the true map")
    )
    depth = EstimateDepth().run(
        psf_map, calibration=calibration, image=blind.image, run=stage(6, "estimating depth")
    )
    stage(7, "writing the results")
    figures = _figures(sample, split, blind, known, depth)
    files = _write(out_dir, sample, split, psf_map, blind, depth, calibration)
    figures |= {"device": engine.describe(), "psf_map_valid": float(psf_map.valid.mean())}
    figures["seconds"] = round(time.perf_counter() - started, 1)
    _report(out_dir / "report.png", sample, split, psf_map, blind, depth, figures)
    write_json(figures, out_dir / "summary.json", overwrite=True)
    run.step(_STAGES, _STAGES, "done")
    return {**figures, "folder": str(out_dir), "files": [*files, "report.png", "summary.json"]}


def _calibrate(engine: Engine, run: Run) -> DepthCalibration:
    grid = tilted_grid(512, tilt_deg=_TILT_DEG)
    estimate = EstimatePsfMap(model="zernike-3", stride_px=_STRIDE_PX)
    psf_map = estimate.run(grid.image, engine=engine, run=run, optics=grid.optics)
    assert isinstance(psf_map, PsfMap)
    return DepthCalibration.from_tilted_plane(psf_map, tilt_deg=_TILT_DEG, azimuth_deg=90.0)


def _figures(
    sample: Sample, split: BackgroundResult, blind: DeblurResult, known: DeblurResult, depth: DepthResult
) -> dict[str, Any]:
    """Compare every stage with the truth; intensities in photons."""
    sharp = sample.sharp
    span = float(sharp.max())
    haze_found = split.background.data - CAMERA_OFFSET
    error = np.abs(depth.depth_um - sample.depth_um)
    depth_range = float(np.ptp(sample.depth_um))
    seen = np.isfinite(error)
    return {
        "background_error_rms_photons": _rounded(np.sqrt(np.mean((haze_found - sample.haze) ** 2))),
        "snr_db_blurred": _rounded(snr_db(split.image.data, sharp)),
        "snr_db_blind": _rounded(snr_db(blind.image.data, sharp)),
        "snr_db_known_psf": _rounded(snr_db(known.image.data, sharp)),
        "ssim_blurred": _rounded(ssim(split.image.data, sharp, span)),
        "ssim_blind": _rounded(ssim(blind.image.data, sharp, span)),
        "depth_range_um": _rounded(depth_range),
        "depth_error_um": _rounded(error[seen].mean()),
        "depth_error_share_of_range": _rounded(error[seen].mean() / depth_range, 4),
        "depth_seen_share": _rounded(seen.mean()),
        "flux_change": _rounded(blind.record.facts["flux_change"], 5),
    }


def _rounded(value: float | np.floating, digits: int = 3) -> float:
    return round(float(value), digits)


def _write(
    folder: Path,
    sample: Sample,
    split: BackgroundResult,
    psf_map: PsfMap,
    blind: DeblurResult,
    depth: DepthResult,
    calibration: DepthCalibration,
) -> list[str]:
    """Write what a user would export and return the names."""
    images: dict[str, tuple[Image, Any]] = {
        "sample.ome.tif": (sample.image, None),
        "foreground.ome.tif": (split.image, split.record),
        "background.ome.tif": (split.background, split.record),
        "deblurred.ome.tif": (blind.image, blind.record),
        "residual.ome.tif": (blind.residual, blind.record),
    }
    for name, (image, record) in images.items():
        write_image(image, folder / name, record, overwrite=True)
    psf_map.save(folder / "psf_map.npz", overwrite=True)
    calibration.save(folder / "calibration.json", overwrite=True)
    write_depth(depth, folder / "depth.ome.tif", overwrite=True)
    write_mesh(depth.surface(blind.image), folder / "surface.ply", overwrite=True)
    recipe = Recipe.from_records([split.record, psf_map.record, blind.record, depth.record])
    recipe.save(folder / "recipe.yaml", overwrite=True)
    return [*images, "psf_map.npz", "calibration.json", "depth.ome.tif", "surface.ply", "recipe.yaml"]


def _report(
    path: Path,
    sample: Sample,
    split: BackgroundResult,
    psf_map: PsfMap,
    blind: DeblurResult,
    depth: DepthResult,
    figures: dict[str, Any],
) -> None:
    low, high = float(sample.depth_um.min()), float(sample.depth_um.max())
    white = float(np.percentile(sample.sharp, 99.7))
    middle = slice(0, 2 * psf_map.grid_shape[0], max(1, psf_map.grid_shape[0] // _MOSAIC_PSFS))
    corner = _detail(blind.image.data)
    panels = [
        Panel("1 Input", "cells on a tilted plane, haze, photon noise", sample.image.data),
        Panel("2 Background", "wavelets", split.background.data),
        Panel("3 Background removed", "foreground", split.image.data, 0, white * 0.7),
        Panel("4 PSF map", "local PSFs, estimated from the image", mosaic(psf_map.kernels()[middle, middle])),
        Panel("5 Defocus", "waves, signless", psf_map.parameters[..., 0], coloured=True),
        Panel(
            "6 Deblurred, blind",
            f"TV Richardson-Lucy, SNR {figures['snr_db_blurred']} to {figures['snr_db_blind']} dB",
            blind.image.data,
            0,
            white,
        ),
        Panel("7 Truth", f"with the true PSFs: {figures['snr_db_known_psf']} dB", sample.sharp, 0, white),
        Panel("8 Residual", "what the result does not explain", blind.residual.data),
        Panel("Detail: before", "after background removal", split.image.data[corner], 0, white * 0.7),
        Panel("Detail: after", "blind", blind.image.data[corner], 0, white),
        Panel("9 Depth", f"{low:.0f} to {high:.0f} um", depth.depth_um, low, high, coloured=True),
        Panel("10 Depth error", "-5 to 5 um", depth.depth_um - sample.depth_um, -5, 5, coloured=True),
    ]
    lines = [
        f"Device: {figures['device']}; {figures['seconds']} s",
        f"Depth: mean error {figures['depth_error_um']} um "
        f"= {100 * figures['depth_error_share_of_range']:.2f} % of {figures['depth_range_um']:.0f} um; "
        f"flux change of deblurring {100 * figures['flux_change']:.2f} %",
    ]
    write_report(path, "napari-deblur: the main job on a rendered sample", lines, panels, overwrite=True)


def _detail(image: FloatArray) -> tuple[slice, slice]:
    """Return the lower right part, where the sample is far out of focus."""
    height, width = image.shape
    return slice(height - 150, height - 10), slice(width // 2 - 70, width // 2 + 70)
