from __future__ import annotations

import json

import numpy as np
import pytest

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


def test_the_dask_extra_is_named_and_the_address_checked(cli, tmp_path, image_file, recipe_file, monkeypatch):
    arguments = ["run", recipe_file, image_file, "-o", tmp_path / "out", "--scheduler", "nowhere"]
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    code, _, err = cli(*arguments)
    assert code == 2
    assert "--scheduler needs the extra 'batch'" in err
