import json

import numpy as np
import pytest
import tifffile
from PIL import Image as Pictures

from napari_deblur.core.errors import CancelledError
from napari_deblur.core.run import Run
from napari_deblur.demo import run_demo
from napari_deblur.io.read import read_record
from napari_deblur.optics.psf_map import PsfMap


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    seen = []
    return folder, run_demo(folder, Run(on_progress=seen.append)), seen


def test_everything_announced_is_there_and_opens(demo):
    folder, found, _ = demo
    assert sorted(entry.name for entry in folder.iterdir()) == sorted(found["files"])
    assert tifffile.imread(folder / "deblurred.ome.tif").shape == (512, 512)
    assert read_record(folder / "deblurred.ome.tif")["step"]["kind"] == "deblur"
    assert PsfMap.load(folder / "psf_map.npz").image_shape == (512, 512)
    with Pictures.open(folder / "report.png") as report:
        assert report.width > 1000
    assert json.loads((folder / "summary.json").read_text())["snr_db_blind"] == found["snr_db_blind"]


def test_what_the_demo_finds_is_right(demo):
    _, found, _ = demo
    blurred, blind, known = (found[f"snr_db_{name}"] for name in ("blurred", "blind", "known_psf"))
    assert blind - blurred > 0.7 * (known - blurred) > 0
    assert found["depth_error_share_of_range"] < 0.05
    assert found["depth_seen_share"] > 0.8
    assert abs(found["flux_change"]) < 0.01


def test_progress_only_grows(demo):
    fractions = [progress.fraction for progress in demo[2]]
    assert np.all(np.diff(fractions) >= -1e-9)
    assert fractions[-1] == 1


def test_cancel_stops_before_anything_is_written(tmp_path):
    run = Run()
    run.cancel()
    with pytest.raises(CancelledError):
        run_demo(tmp_path, run)
    assert list(tmp_path.iterdir()) == []
