from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import tifffile

from napari_deblur.io.read import read_image, read_psf, read_record
from napari_deblur.optics.psf_map import PsfMap


def report_of(found):
    code, out, err = found
    assert (code, err) == (0, "")
    return json.loads(out)


def test_background(cli, tmp_path, image_file, scene):
    front, back = tmp_path / "front.ome.tif", tmp_path / "back.npy"
    found = cli(
        "background", image_file, "-o", front, "--background-output", back, "--n-iterations", 2, "--json"
    )
    record = report_of(found)["record"]
    assert record["step"]["n_iterations"] == 2
    assert read_record(front) == record
    image = read_image(front)
    assert image.pixel_size_um == (0.1, 0.1)
    assert image.data.shape == scene.shape
    assert read_image(back).data.mean() > 0


def test_deblur_takes_a_background_off(cli, tmp_path, image_file, psf_file):
    front, back = tmp_path / "front.ome.tif", tmp_path / "back.ome.tif"
    report_of(cli("background", image_file, "-o", front, "--background-output", back, "--json"))
    arguments = ["deblur", "richardson-lucy", image_file, "--psf", psf_file, "--n-iterations", 2]
    record = report_of(
        cli(
            *arguments,
            "--background",
            back,
            "-o",
            tmp_path / "a.ome.tif",
            "--residual",
            tmp_path / "r.npy",
            "--json",
        )
    )["record"]
    assert record["facts"]["pedestal"] > 0
    assert record["input"]["background"] == str(back)
    made = cli("recipe", tmp_path / "a.ome.tif", "-o", tmp_path / "r.yaml")
    assert made[0] == 2
    assert "must be estimated by a step before, to be taken off other images too" in made[2]
    assert cli("recipe", front, tmp_path / "a.ome.tif", "-o", tmp_path / "r.yaml")[0] == 0
    rest = read_image(image_file).data - read_image(back).data
    # What is left of the image once the background is off, is object and residual.
    unexplained = read_image(tmp_path / "r.npy").data
    assert np.abs(unexplained).mean() < np.abs(rest).mean()
    code, _, err = cli(*arguments, "--background", tmp_path / "none.tif", "-o", tmp_path / "b.ome.tif")
    assert code == 2
    assert "background" in err
    streamed = cli(*arguments, "--background", back, "--stream", "-o", tmp_path / "c.ome.zarr")
    assert streamed[0] == 2
    assert "background must be left out" in streamed[2]


def test_deblur_with_a_kernel(cli, tmp_path, image_file, psf_file):
    target = tmp_path / "sharp.ome.tif"
    more = [
        "--n-iterations",
        5,
        "--camera-offset",
        40,
        "--residual",
        tmp_path / "r.npy",
        "--psf-output",
        tmp_path / "p.tif",
    ]
    report = report_of(
        cli("deblur", "tv-richardson-lucy", image_file, "-o", target, "--psf", psf_file, *more, "--json")
    )
    assert report["record"]["step"]["method"]["n_iterations"] == 5
    assert report["record"]["step"]["camera_offset"] == 40
    assert report["record"]["psf"]["path"] == str(psf_file)
    assert read_image(target).data.std() > read_image(image_file).data.std()
    assert np.allclose(read_psf(tmp_path / "p.tif"), np.load(psf_file))
    assert read_image(tmp_path / "r.npy").data.shape == read_image(image_file).data.shape


def test_deblur_with_optics_takes_the_pixel_size_from_the_file(cli, tmp_path, image_file):
    arguments = ["deblur", "wiener", image_file, "--na", 1.2, "--wavelength-um", 0.52]
    report = report_of(cli(*arguments, "-o", tmp_path / "a.tif", "--json"))
    assert report["record"]["psf"]["pixel_size_um"] == pytest.approx(0.1)
    report = report_of(cli(*arguments, "-o", tmp_path / "b.tif", "--pixel-size-um", 0.2, "--json"))
    assert report["record"]["psf"]["pixel_size_um"] == pytest.approx(0.2)
    assert read_image(tmp_path / "b.tif").pixel_size_um == (0.2, 0.2)


def test_deblur_with_flags_that_switch_off(cli, tmp_path, image_file, psf_file):
    arguments = [
        "deblur",
        "wiener",
        image_file,
        "--psf",
        psf_file,
        "-o",
        tmp_path / "a.tif",
        "--no-clip-negative",
    ]
    assert report_of(cli(*arguments, "--json"))["record"]["step"]["method"]["clip_negative"] is False


def test_psf_map_then_deblur_and_depth_with_it(cli, tmp_path, image_file):
    target, table = tmp_path / "map.npz", tmp_path / "map.csv"
    found = cli("psf-map", image_file, "-o", target, "--table", table, "--stride-px", 16, "--json")
    report_of(found)
    psf_map = PsfMap.load(target)
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert len(rows) == psf_map.parameters.shape[0] * psf_map.parameters.shape[1]
    assert float(rows[0]["defocus_waves"]) == pytest.approx(psf_map.parameters[0, 0, 0])
    report = report_of(
        cli("deblur", "richardson-lucy", image_file, "-o", tmp_path / "a.tif", "--psf-map", target,
            "--psf-output", tmp_path / "used.npz", "--n-iterations", 2, "--json")
    )  # fmt: skip
    assert report["record"]["psf"]["model"] == "zernike-3"
    assert np.array_equal(PsfMap.load(tmp_path / "used.npz").parameters, psf_map.parameters)
    outputs = ["-o", tmp_path / "depth.tif", "--confidence", tmp_path / "c.tif"]
    report_of(cli("depth", target, *outputs, "--min-confidence", 0, "--json"))
    assert read_record(tmp_path / "depth.tif")["unit"] == "relative"
    assert read_image(tmp_path / "c.tif").data.max() <= 1


def test_depth_in_micrometres_needs_optics_and_an_axis_or_a_file(cli, tmp_path, image_file):
    outputs = ["-o", tmp_path / "depth.tif", "--surface", tmp_path / "s.ply", "--stride-px", 16]
    optics = ["--na", 0.7, "--wavelength-um", 0.3181818]
    code, _, err = cli("depth", image_file, *outputs)
    assert code == 2
    assert "--relative-height-um must be given" in err
    assert not (tmp_path / "depth.tif").exists()
    report_of(cli("depth", image_file, *outputs, *optics, "--axis-deg", 0, "--min-confidence", 0, "--json"))
    assert read_record(tmp_path / "depth.tif")["unit"] == "µm"
    assert (tmp_path / "s.ply").read_bytes().startswith(b"ply")


def test_psf_map_of_a_stack_is_one_file_per_plane(cli, tmp_path, scene):
    path = tmp_path / "movie.tif"
    tifffile.imwrite(path, np.stack([scene, scene[::-1]]), ome=True, metadata={"axes": "TYX"})
    report_of(cli("psf-map", path, "-o", tmp_path / "m.npz", "--json"))
    assert [PsfMap.load(tmp_path / f"m_{n:04d}.npz").image_shape for n in (0, 1)] == [scene.shape] * 2
    code, _, err = cli("psf-map", path, "-o", tmp_path / "m.npz")
    assert code == 2
    assert "m_0000.npz" in err


BAD_IMAGES = {
    "constant": (np.ones((64, 64)), "must not be constant"),
    "not finite": (np.full((64, 64), np.nan), "must be finite"),
    "tiny": (np.eye(8), "must be at least 16 × 16 pixels"),
    "in colour": (np.random.default_rng(0).random((64, 64, 3)), "must be single-channel: split the colours"),
    "complex": (np.eye(64) * 1j, "must hold real numbers"),
    "one-dimensional": (np.arange(64.0), "must have 2 to 5 axes"),
    "empty": (np.zeros((0, 64)), "must not have an axis of length 0"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_images_that_mean_nothing(cli, tmp_path, psf_file, name):
    data, expected = BAD_IMAGES[name]
    np.save(tmp_path / "bad.npy", data)
    for command in (["background"], ["deblur", "wiener", "--psf", psf_file], ["psf-map"], ["depth"]):
        target = tmp_path / ("a.npz" if command == ["psf-map"] else "a.tif")
        code, _, err = cli(*command, tmp_path / "bad.npy", "-o", target)
        assert code == 2
        assert err.startswith("napari-deblur: IN ")
        assert expected in err
        assert err.count("\n") == 1
        assert not target.exists()


BAD_PSFS = {
    "larger than the image": (np.ones((401, 401)), "--psf must not be larger than the image"),
    "all zero": (np.zeros((9, 9)), "--psf must have positive values"),
    "negative": (-np.eye(9), "--psf must have positive values"),
    "not finite": (np.full((9, 9), np.inf), "--psf must be finite"),
    "a line": (np.ones(9), "--psf must have the axes"),
}


@pytest.mark.parametrize("name", BAD_PSFS)
def test_psfs_that_mean_nothing(cli, tmp_path, image_file, name):
    data, expected = BAD_PSFS[name]
    np.save(tmp_path / "bad.npy", data)
    code, _, err = cli(
        "deblur", "wiener", image_file, "-o", tmp_path / "a.tif", "--psf", tmp_path / "bad.npy"
    )
    assert code == 2
    assert expected in err
    assert not (tmp_path / "a.tif").exists()


def test_an_odd_psf_is_used_with_a_remark(cli, tmp_path, image_file):
    np.save(tmp_path / "even.npy", np.ones((6, 6)))
    code, out, _ = cli(
        "deblur", "wiener", image_file, "-o", tmp_path / "a.tif", "--psf", tmp_path / "even.npy"
    )
    assert code == 0
    assert "note: psf of even size" in out


def test_text_reports(cli, tmp_path, image_file, psf_file):
    code, out, _ = cli("deblur", "wiener", image_file, "-o", tmp_path / "a.tif", "--psf", psf_file)
    assert code == 0
    assert f"output: {tmp_path / 'a.tif'}" in out
    assert " s on CPU" in out or " s on " in out


def test_cancelled_work_is_kept_only_when_asked_for(cli, tmp_path, image_file, psf_file, monkeypatch):
    from napari_deblur.core.run import Run

    step = Run.step

    def cancelling(self, done, total, message, partial=None):
        if "iteration 3" in message:
            self.cancel()
        step(self, done, total, message, partial)

    monkeypatch.setattr(Run, "step", cancelling)
    target = tmp_path / "a.tif"
    arguments = ["deblur", "richardson-lucy", image_file, "-o", target, "--psf", psf_file]
    assert cli(*arguments)[::2] == (130, "napari-deblur: cancelled; nothing was written\n")
    assert not target.exists()
    code, _, _ = cli(*arguments, "--keep-partial")
    assert code == 130
    assert read_record(target)["partial"] is True
