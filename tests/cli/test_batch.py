from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile

from napari_deblur.io.read import read_image, read_record
from napari_deblur.recipe import Recipe


@pytest.fixture
def recipe_file(tmp_path, psf_file):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"version: 1\npsf: {{file: {psf_file.name}}}\n"
        "steps:\n- kind: remove-background\n"
        "- kind: deblur\n  method: {kind: richardson-lucy, n_iterations: 2}\n"
    )
    return path


def test_a_recipe_runs_over_files(cli, tmp_path, image_file, recipe_file):
    out = tmp_path / "results"
    code, text, err = cli("run", recipe_file, image_file, "-o", out, "--json")
    assert (code, err) == (0, "")
    assert json.loads(text)["files"][0]["state"] == "done"
    assert read_image(out / "cells_deblurred.ome.tif").pixel_size_um == (0.1, 0.1)
    assert read_record(out / "cells_deblurred.ome.tif")["step"]["method"]["n_iterations"] == 2
    code, text, _ = cli("run", recipe_file, image_file, "-o", out)
    assert code == 0
    assert "skipped" in text


def test_failures_are_listed_and_the_rest_goes_on(cli, tmp_path, image_file, recipe_file):
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"nothing")
    out = tmp_path / "results"
    code, text, err = cli("run", recipe_file, bad, image_file, "-o", out)
    assert code == 2
    assert "1 of 2 failed" in err
    assert err.count("\n") == 1
    assert "must be a readable TIFF file" in text
    assert (out / "cells_deblurred.ome.tif").exists()


def test_a_result_can_be_repeated_on_other_images(cli, tmp_path, image_file, psf_file):
    first = tmp_path / "first.tif"
    assert (
        cli("deblur", "wiener", image_file, "-o", first, "--psf", psf_file, "--noise-to-signal", 0.01)[0] == 0
    )
    code, _, err = cli("run", first, image_file, "-o", tmp_path / "again")
    assert (code, err) == (0, "")
    again = read_image(tmp_path / "again" / "cells_deblurred.ome.tif")
    assert np.array_equal(again.data, read_image(first).data)


def test_results_give_their_recipe(cli, tmp_path, image_file, psf_file):
    front, sharp = tmp_path / "front.tif", tmp_path / "sharp.tif"
    assert cli("background", image_file, "-o", front)[0] == 0
    assert cli("deblur", "wiener", front, "-o", sharp, "--psf", psf_file)[0] == 0
    code, out, _ = cli("recipe", front, sharp, "-o", tmp_path / "r.yaml")
    assert code == 0
    assert "r.yaml" in out
    recipe = Recipe.load(tmp_path / "r.yaml")
    assert [step.kind for step in recipe.steps] == ["remove-background", "deblur"]
    assert recipe.psf.file == str(psf_file)
    code, _, err = cli("recipe", image_file, "-o", tmp_path / "q.yaml")
    assert code == 2
    assert "must carry a record" in err


def test_compare_by_default_takes_every_quick_method_with_a_blind_map(cli, tmp_path, image_file):
    out = tmp_path / "compared"
    code, text, err = cli("compare", image_file, "-o", out, "--blind", "gaussian-2", "--json")
    assert code == 0, err
    ids = [entry["method"] for entry in json.loads(text)["methods"]]
    assert {"wiener", "richardson-lucy", "tv-richardson-lucy", "deep-blur"} <= set(ids)
    assert not {"cider", "self-deblur", "latent-deformation"} & set(ids)


def test_compare(cli, tmp_path, image_file, psf_file):
    out = tmp_path / "compared"
    code, text, err = cli(
        "compare", image_file, "-o", out, "--methods", "wiener,richardson-lucy", "--psf", psf_file
    )
    assert (code, err) == (0, "")
    assert "richardson-lucy" in text
    summary = json.loads((out / "cells_comparison.json").read_text(encoding="utf-8"))
    assert [row["method"] for row in summary["methods"]] == ["wiener", "richardson-lucy"]
    assert (out / "cells_wiener.ome.tif").exists()
    code, _, err = cli("compare", image_file, "-o", out, "--methods", "wiener,magic", "--psf", psf_file)
    assert code == 2
    assert "METHOD must be one of" in err


def test_a_cancelled_comparison_says_what_is_written(cli, tmp_path, image_file, psf_file, monkeypatch):
    from napari_deblur.core.run import Run

    step = Run.step

    def cancelling(self, done, total, message, partial=None):
        if "iteration 3" in message:
            self.cancel()
        step(self, done, total, message, partial)

    monkeypatch.setattr(Run, "step", cancelling)
    out, methods = tmp_path / "compared", "wiener,richardson-lucy"
    code, _, err = cli("compare", image_file, "-o", out, "--methods", methods, "--psf", psf_file)
    assert code == 130
    assert err == f"napari-deblur: cancelled; 1 of 2 methods are written in {out}\n"
    assert [path.name for path in out.iterdir()] == ["cells_wiener.ome.tif"]


OPTICS = ["--na", "0.8", "--refractive-index", "1.33"]
VOXELS = ["--pixel-size-um", "0.2", "--z-step-um", "0.6"]


@pytest.fixture
def channels_file(tmp_path):
    """Write two time points of two channels of a small volume, with their emission wavelengths."""
    pixels = np.random.default_rng(0).poisson(50, (2, 2, 7, 32, 36)).astype(np.uint16)
    sizes = {"PhysicalSizeX": 0.2, "PhysicalSizeY": 0.2, "PhysicalSizeZ": 0.6}
    waves = {"Channel": {"EmissionWavelength": [520, 620], "EmissionWavelengthUnit": ["nm", "nm"]}}
    path = tmp_path / "channels.ome.tif"
    tifffile.imwrite(path, pixels, ome=True, metadata={"axes": "TCZYX", **sizes, **waves})
    return path


def test_volumes_are_compared_each_channel_with_its_own_psf(cli, tmp_path, channels_file):
    out = tmp_path / "compared"
    given = ["compare", channels_file, "-o", out, *OPTICS, "--optics-from-file"]
    code, text, err = cli(*given, "--json")
    assert code == 0, err
    found = json.loads(text)
    rows = found["methods"]
    assert [row["method"] for row in rows] == ["wiener", "richardson-lucy", "tv-richardson-lucy"]
    assert {row["restored_in"] for row in rows} == {"3D"}
    assert "hyper-laplacian works plane by plane and was left out." in found["notes"]
    alone = tmp_path / "alone.ome.tif"
    code, _, err = cli("deblur", "richardson-lucy", channels_file, "-o", alone, *OPTICS, "--optics-from-file")
    assert code == 0, err
    compared = read_image(out / "channels_richardson-lucy.ome.tif")
    assert compared.axes == "tczyx"
    assert np.array_equal(compared.data, read_image(alone).data)


def test_methods_for_planes_are_compared_over_planes(cli, tmp_path, channels_file):
    methods = ["--methods", "wiener,hyper-laplacian"]
    given = ["compare", channels_file, *methods, *OPTICS, "--wavelength-um", "0.52"]
    code, _, err = cli(*given, "-o", tmp_path / "mixed")
    assert code == 2
    assert err.startswith("napari-deblur: --methods must all work in 3D for a PSF with a z axis")
    assert err.endswith("received hyper-laplacian\n")
    assert not (tmp_path / "mixed").exists()
    code, text, err = cli(*given, "-o", tmp_path / "flat", "--slice-by-slice", "--json")
    assert code == 0, err
    assert {row["restored_in"] for row in json.loads(text)["methods"]} == {"2D"}


def test_a_psf_file_with_a_z_axis_needs_a_stack(cli, tmp_path, channels_file, image_file):
    grids = np.indices((5, 7, 7)) - np.array([2, 3, 3])[:, None, None, None]
    np.save(tmp_path / "bead.npy", np.exp(-(grids**2).sum(axis=0) / 4).astype(np.float32))
    given = ["--psf", tmp_path / "bead.npy", "--methods", "wiener,richardson-lucy"]
    code, text, err = cli("compare", channels_file, "-o", tmp_path / "deep", *given)
    assert code == 0, err
    assert text.count("3D") == 2
    code, _, err = cli("compare", image_file, "-o", tmp_path / "none", *given)
    assert code == 2
    assert "--psf must be 2D (y, x) for an image without a z axis" in err
    assert not (tmp_path / "none" / "cells_wiener.ome.tif").exists()


def test_the_dask_extra_is_named_and_the_address_checked(cli, tmp_path, image_file, recipe_file, monkeypatch):
    arguments = ["run", recipe_file, image_file, "-o", tmp_path / "out", "--scheduler", "nowhere"]
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    code, _, err = cli(*arguments)
    assert code == 2
    assert "--scheduler needs the extra 'batch'" in err


def test_a_background_is_taken_off_before_methods_are_compared(cli, tmp_path, image_file, psf_file):
    image = read_image(image_file)
    np.save(tmp_path / "b.npy", np.full_like(image.data, 10))
    given = ["compare", image_file, "-o", tmp_path / "c", "--psf", psf_file, "--methods", "wiener"]
    assert cli(*given, "--background", tmp_path / "b.npy")[0] == 0
    record = read_record(tmp_path / "c" / "cells_wiener.ome.tif")
    assert record["input"]["background"] == str(tmp_path / "b.npy")
    alone = tmp_path / "alone.tif"
    assert (
        cli(
            "deblur", "wiener", image_file, "-o", alone, "--psf", psf_file, "--background", tmp_path / "b.npy"
        )[0]
        == 0
    )
    np.testing.assert_array_equal(
        read_image(tmp_path / "c" / "cells_wiener.ome.tif").data, read_image(alone).data
    )


def test_a_method_that_cannot_do_it_is_said_and_the_others_compared(cli, tmp_path, image_file, psf_file):
    given = ["compare", image_file, "-o", tmp_path / "c", "--psf", psf_file]
    code, out, _ = cli(*given, "--methods", "wiener,latent-deformation", "--json")
    assert code == 0
    assert [entry["method"] for entry in json.loads(out)["methods"]] == ["wiener"]
    assert "Latent deformation (learned): psf must" in out
    assert cli(*given, "--methods", "latent-deformation", "--overwrite")[0] == 2
    assert cli(*given, "--methods", "")[0] == 2
