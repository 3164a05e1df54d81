"""The command ``deblur`` on stacks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile

from napari_deblur.io.read import read_image, read_record

OPTICS = ["--na", "0.8", "--wavelength-um", "0.52", "--refractive-index", "1.33"]
FEW = ["--n-iterations", "3"]


@pytest.fixture
def stack_file(tmp_path):
    rng = np.random.default_rng(0)
    data = rng.poisson(50 + 100 * rng.random((9, 40, 44))).astype(np.uint16)
    path = tmp_path / "stack.ome.tif"
    sizes = {"PhysicalSizeX": 0.2, "PhysicalSizeY": 0.2, "PhysicalSizeZ": 0.6}
    tifffile.imwrite(path, data, ome=True, metadata={"axes": "ZYX", **sizes})
    return path


@pytest.fixture
def silent_file(tmp_path):
    path = tmp_path / "stack.npy"
    np.save(path, np.random.default_rng(0).random((9, 40, 44)).astype(np.float32))
    return path


def facts(path):
    return read_record(path)["facts"]


def test_optics_restore_a_stack_in_3d_where_its_voxels_are_known(cli, tmp_path, stack_file):
    out = tmp_path / "a.ome.tif"
    code, text, _ = cli("deblur", "richardson-lucy", stack_file, "-o", out, *OPTICS, *FEW)
    assert code == 0
    assert text.startswith("plan: one volume in one piece: ")
    assert facts(out)["restored_in"] == "3D"
    assert read_record(out)["psf"]["z_step_um"] == pytest.approx(0.6)
    assert read_image(out).data.shape == (9, 40, 44)
    flat = tmp_path / "b.ome.tif"
    code, _, _ = cli("deblur", "richardson-lucy", stack_file, "-o", flat, *OPTICS, *FEW, "--slice-by-slice")
    assert code == 0
    assert facts(flat)["restored_in"] == "2D"


def test_voxels_that_the_file_does_not_know_are_given(cli, tmp_path, silent_file):
    out = tmp_path / "a.npy"
    voxels = ["--pixel-size-um", "0.2", "--z-step-um", "0.6"]
    more = ["--sample-index", "1.36", "--depth-um", "5", "--theory", "scalar"]
    code, _, err = cli("deblur", "tv-richardson-lucy", silent_file, "-o", out, *OPTICS, *voxels, *more, *FEW)
    assert (code, err) == (0, "")
    psf = read_record(out)["psf"]
    assert (psf["theory"], psf["sample_index"], psf["depth_um"]) == ("scalar", 1.36, 5.0)


def test_the_plan_alone_writes_nothing(cli, tmp_path, stack_file):
    out = tmp_path / "a.tif"
    code, text, _ = cli("deblur", "wiener", stack_file, "-o", out, *OPTICS, "--plan", "--json")
    assert code == 0
    plan = json.loads(text)["plan"]
    assert plan["block_shape"] == [9, 40, 44]
    assert plan["bytes"] > plan["device_bytes"] > 0
    assert not out.exists()


def test_a_measured_psf_with_its_own_voxels(cli, tmp_path, stack_file):
    grids = np.indices((15, 31, 31)) - np.array([7, 15, 15])[:, None, None, None]
    bead = np.exp(-(grids[0] ** 2 / 8 + (grids[1] ** 2 + grids[2] ** 2) / 18)).astype(np.float32)
    np.save(tmp_path / "bead.npy", bead)
    out, used = tmp_path / "a.ome.tif", tmp_path / "psf.tif"
    voxels = ["--psf-pixel-size-um", "0.1", "--psf-z-step-um", "0.3"]
    given = ["--psf", tmp_path / "bead.npy", *voxels, "--psf-output", used]
    code, text, _ = cli("deblur", "richardson-lucy", stack_file, "-o", out, *given, *FEW)
    assert code == 0
    assert "resampled" in text
    np.testing.assert_allclose(read_record(out)["psf"]["fwhm_um"], [1.41, 0.706, 0.706], rtol=0.1)
    assert read_image(used).data.ndim == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*OPTICS, "--z-step-um", "-1"], "--z-step-um must be positive"),
        ([*OPTICS, "--z-step-um", "deep"], "--z-step-um must be a number"),
        (
            [*OPTICS, "--axes", "tyx", "--z-step-um", "0.5"],
            "--z-step-um must be left out for an image without",
        ),
        ([*OPTICS, "--pixel-size-um", "0.2", "--depth-um", "5"], "--depth-um must be left out where planes"),
        (["--theory", "scalar"], "--theory needs --na and --wavelength-um"),
        ([*OPTICS, "--pixel-size-um", "0.2", "--z-step-um", "1", "--theory", "magic"], "--theory"),
    ],
)
def test_what_does_not_fit_is_one_line(cli, tmp_path, silent_file, arguments, said):
    out = tmp_path / "a.npy"
    code, _, err = cli("deblur", "richardson-lucy", silent_file, "-o", out, *arguments)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert not out.exists()
