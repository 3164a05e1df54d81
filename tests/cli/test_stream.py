from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile

from napari_deblur.io.read import read_image, read_record

pytest.importorskip("zarr")

QUICK = ["--n-iterations", 2]


def test_a_file_is_streamed_when_asked(cli, tmp_path, image_file, psf_file):
    out, rest = tmp_path / "a.zarr", tmp_path / "rest.zarr"
    arguments = ["deblur", "richardson-lucy", image_file, "--psf", psf_file, *QUICK]
    code, text, err = cli(
        *arguments, "-o", out, "--residual", rest, "--stream", "--block-px", 64, "--format", "ome-zarr-0.5"
    )
    assert (code, err) == (0, "")
    assert text.startswith("cells.tif: 9 blocks of 64 × 64 pixels with a halo of 44 × 44; ")
    assert "GB of memory" in text.splitlines()[0]
    assert cli(*arguments, "-o", tmp_path / "whole.tif")[0] == 0
    whole = read_image(tmp_path / "whole.tif")
    found = read_image(out)
    assert np.abs(found.data - whole.data).max() < 1e-4 * np.ptp(whole.data)
    assert found.pixel_size_um == whole.pixel_size_um
    assert read_record(out)["psf"]["path"] == str(psf_file)
    assert read_image(rest).data.shape == whole.data.shape


def test_a_file_larger_than_the_memory_is_streamed_unasked(cli, tmp_path, image_file, psf_file, monkeypatch):
    from napari_deblur.engine import device

    arguments = ["deblur", "richardson-lucy", image_file, "--psf", psf_file, *QUICK]
    code, text, _ = cli(*arguments, "-o", tmp_path / "a.tif")
    assert code == 0
    assert "blocks of" not in text
    monkeypatch.setattr(device, "memory_budget_bytes", lambda _device: 2_000_000)
    code, text, err = cli(*arguments, "-o", tmp_path / "b.tif", "--json")
    assert code == 0
    assert "blocks of" in err
    assert json.loads(text)["record"]["facts"]["blocks"] > 1


def test_only_the_plan(cli, tmp_path, image_file, psf_file):
    arguments = ["deblur", "richardson-lucy", image_file, "--psf", psf_file, "-o", tmp_path / "a.zarr"]
    code, text, err = cli(*arguments, "--stream", "--block-px", 64, "--plan", "--json")
    assert (code, err) == (0, "")
    assert json.loads(text)["plan"]["n_blocks"] == 9
    assert not list(tmp_path.glob("a.zarr*"))


def test_a_plan_with_other_blocks_leaves_what_was_begun(cli, tmp_path, image_file, psf_file, monkeypatch):
    from napari_deblur.core.errors import CancelledError
    from napari_deblur.stream import stages

    def cancelled(work, item, run, original=stages.deblur):
        if item == 2:
            raise CancelledError("cancelled")
        return original(work, item, run)

    out = tmp_path / "a.zarr"
    given = ["deblur", "richardson-lucy", image_file, "--psf", psf_file, *QUICK, "-o", out, "--stream"]
    with monkeypatch.context() as patch:
        patch.setitem(stages.STAGES, "deblur", cancelled)
        code, _, err = cli(*given, "--block-px", 64)
    assert (code, "2 finished blocks are kept in a.zarr.part" in err) == (130, True)
    code, text, err = cli(*given, "--block-px", 128, "--plan")
    assert (code, err) == (0, "")
    assert text.startswith("plan: 4 blocks of 128 × 128 pixels")
    assert "note: a.zarr.part was begun with another block_px and holds 2 finished blocks: " in text
    code, _, err = cli(*given, "--block-px", 128)
    assert code == 2
    assert "output must not discard what was begun with other settings (allow it with --overwrite)" in err
    code, text, err = cli(*given, "--block-px", 64, "--plan")
    assert "9 blocks of 64 × 64 pixels with a halo of 44 × 44, 2 of them done before" in text
    code, _, err = cli(*given, "--block-px", 128, "--overwrite")
    assert (code, err) == (0, "")
    assert read_record(out)["facts"]["blocks"] == 4


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["-o", "a.png", "--stream"], "--output must end in one of .tif, .tiff, .zarr to be written block"),
        (["-o", "a.tif", "--format", "ome-zarr-0.4"], "--output must end in .zarr for the format"),
        (["-o", "a.tif", "--format", "jpeg"], "--format must be one of ome-tiff"),
        (["-o", "a.tif", "--memory-gb", "0"], "--memory-gb must be greater than 0"),
        (["-o", "a.tif", "--memory-gb", "0.0001"], "--memory-gb must be at least 0.0"),
        (["-o", "a.tif", "--stream", "--psf-output", "p.tif"], "--psf-output must be left out for an image"),
    ],
)
def test_one_line_for_each_mistake(cli, tmp_path, image_file, psf_file, monkeypatch, more, expected):
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("deblur", "richardson-lucy", image_file, "--psf", psf_file, *QUICK, *more)
    assert code == 2
    assert err.startswith(f"napari-deblur: {expected}")
    assert err.count("\n") == 1
    assert {entry.name for entry in tmp_path.iterdir()} == {"cells.tif", "psf.npy"}


@pytest.fixture
def recipe_file(tmp_path, psf_file):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"version: 1\npsf: {{file: {psf_file.name}}}\n"
        "steps:\n- kind: deblur\n  method: {kind: richardson-lucy, n_iterations: 2}\n"
    )
    return path


def test_run_streams_and_goes_on(cli, tmp_path, image_file, recipe_file):
    out = tmp_path / "out"
    arguments = ["run", recipe_file, image_file, "-o", out, "--stream", "--block-px", 64]
    code, text, err = cli(*arguments, "--format", "ome-zarr-0.4")
    assert (code, err) == (0, "")
    assert "9 blocks of" in text
    assert (out / "cells_deblurred.ome.zarr").is_dir()
    code, text, _ = cli(*arguments, "--format", "ome-zarr-0.4")
    assert code == 0
    assert "its results verified" in text


@pytest.mark.parametrize("how", [[], ["--stream", "--block-px", 64]])
def test_a_record_is_run_again_from_where_it_lies(cli, tmp_path, image_file, recipe_file, how):
    out, again = tmp_path / "out", tmp_path / "again"
    assert cli("run", recipe_file, image_file, "-o", out, *how)[0] == 0
    code, text, err = cli("run", out / "cells_record.json", image_file, "-o", again, *how)
    assert (code, err) == (0, ""), text
    name = "cells_deblurred.ome.tif"
    assert np.array_equal(read_image(again / name).data, read_image(out / name).data)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--workers", "many"], "--workers must be a whole number"),
        (["--workers", "2", "--scheduler", "tcp://x:1"], "--workers must not be combined with --scheduler"),
        (["--scheduler", "tcp://x:1", "--device", "cpu"], "--device must be left out with --scheduler"),
        (["--format", "gif"], "--format must be one of"),
    ],
)
def test_mistakes_with_run(cli, tmp_path, image_file, recipe_file, more, expected):
    code, _, err = cli("run", recipe_file, image_file, "-o", tmp_path / "out", *more)
    assert code == 2
    assert err.startswith(f"napari-deblur: {expected}")


def test_failures_come_last_with_their_reason(cli, tmp_path, image_file, recipe_file):
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"nothing")
    code, text, err = cli("run", recipe_file, bad, image_file, "-o", tmp_path / "out")
    assert code == 2
    assert [line.split()[0] for line in text.splitlines()] == ["done", "failed"]
    assert "1 of 2 failed, first bad.tif: image must be a readable TIFF file" in err


def test_optics_are_taken_from_the_file(cli, tmp_path, scene):
    path = tmp_path / "a.ome.tif"
    channels = {
        "Name": ["GFP", "Cy5"],
        "EmissionWavelength": [520, 670],
        "EmissionWavelengthUnit": ["nm"] * 2,
    }
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.1, "Channel": channels}
    tifffile.imwrite(path, np.stack([scene, scene]), ome=True, photometric="minisblack", metadata=metadata)
    arguments = ["deblur", "richardson-lucy", path, *QUICK, "--json"]
    code, text, err = cli(*arguments, "-o", tmp_path / "b.tif", "--optics-from-file", "--na", 0.8)
    assert (code, err) == (0, "")
    psf = json.loads(text)["record"]["psf"]
    assert (psf["source"], psf["na"], psf["wavelength_um"]) == ("optics", 0.8, 0.52)
    both = read_image(tmp_path / "b.tif").data
    assert not np.allclose(both[0], both[1], rtol=1e-3)  # each channel has its own PSF
    code, _, err = cli(*arguments, "-o", tmp_path / "c.tif", "--optics-from-file")
    assert code == 2
    assert err.startswith("napari-deblur: --na is required")
