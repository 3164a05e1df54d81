from __future__ import annotations

import pytest

from napari_deblur.samples import tilted_grid
from napari_deblur.steps.calibration import DepthCalibration


@pytest.fixture
def map_files(tmp_path):
    """True PSF maps of two samples tilted by 10° downwards."""
    files = []
    for seed in (1, 2):
        files.append(tmp_path / f"plane{seed}.npz")
        tilted_grid(256, tilt_deg=10.0, seed=seed).psf_map(32).save(files[-1])
    return files


@pytest.mark.parametrize("count", [1, 2])
def test_calibrate_with_one_sample_or_several(cli, map_files, tmp_path, count):
    out = tmp_path / "depth.json"
    code, text, _ = cli("calibrate", *map_files[:count], "-o", out, "--tilt-deg", 10, "--azimuth-deg", 90)
    assert code == 0
    assert "lens axis" in text
    calibration = DepthCalibration.load(out)
    assert calibration.source["samples"] == count
    assert calibration.depth_um(0.0) == pytest.approx(0, abs=0.5)


@pytest.mark.parametrize(
    ("maps", "message"),
    [([], "MAP must name at least one PSF map"), (["none.npz"], "MAP must be a file that exists")],
)
def test_maps_that_are_not_there_are_named(cli, tmp_path, maps, message):
    given = ["calibrate", *maps, "-o", tmp_path / "depth.json", "--tilt-deg", 10, "--azimuth-deg", 90]
    code, _, err = cli(*given)
    assert code == 2
    assert message in err
    assert not (tmp_path / "depth.json").exists()
