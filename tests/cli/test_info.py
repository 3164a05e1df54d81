from __future__ import annotations

import json

import pytest

from napari_deblur.methods.base import registry
from napari_deblur.nets.weights import WEIGHTS_VARIABLE


def test_methods(cli):
    code, out, _ = cli("methods", "--json")
    found = json.loads(out)["methods"]
    assert code == 0
    assert [entry["id"] for entry in found] == list(registry())
    assert {"title", "blind", "learned", "space_varying", "ndim", "reference"} <= set(found[0])
    code, out, _ = cli("methods")
    assert code == 0
    assert "tv-richardson-lucy" in out


def test_models(cli):
    found = json.loads(cli("models", "--json")[1])["models"]
    assert {"gaussian-2", "zernike-3"} <= {entry["id"] for entry in found}
    assert {entry["state"] for entry in found} == {"verified"}
    assert "zernike-3" in cli("models")[1]


def test_a_damaged_card_does_not_hide_the_other_networks(cli, tmp_path, monkeypatch):
    (tmp_path / "mine.json").write_text("{")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    code, out, _ = cli("models", "--json")
    states = {entry["id"]: entry["state"] for entry in json.loads(out)["models"]}
    assert code == 0
    assert "cannot be read" in states["mine"]
    assert states["zernike-3"] == "verified"
    assert "cannot be read" in cli("models")[1]


def test_doctor_tells_of_tampered_weights(cli, tmp_path, monkeypatch):
    from napari_deblur.nets.weights import list_models

    model = list_models()[0]
    card = model.path.with_suffix(".json")
    (tmp_path / card.name).write_bytes(card.read_bytes())
    (tmp_path / model.path.name).write_bytes(b"changed")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    code, out, _ = cli("doctor", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["models"][model.id].startswith("changed or damaged")
    assert found["environment"][WEIGHTS_VARIABLE] == str(tmp_path)
    assert {"device", "memory", "extras", "can_write", "packages"} <= set(found)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "gone"))
    code, out, _ = cli("doctor")
    assert code == 0
    assert "must name an existing folder" in out


def test_doctor_says_why_no_gpu(cli, monkeypatch):
    monkeypatch.setenv("NAPARI_DEBLUR_DEVICE", "cpu")
    found = json.loads(cli("doctor", "--json")[1])["device"]
    assert found["used"] == "cpu"
    assert found["why"]


def test_demo_passes_its_folder_on(cli, tmp_path, monkeypatch):
    import napari_deblur.demo

    seen = []

    def run_demo(folder, run):
        seen.append(folder)
        run.note("a remark")
        (folder / "report.png").write_bytes(b"")
        return {"depth_error_um": 1.5}

    monkeypatch.setattr(napari_deblur.demo, "run_demo", run_demo)
    code, out, _ = cli("demo", "-o", tmp_path / "new" / "demo")
    assert code == 0
    assert "depth_error_um: 1.5" in out
    assert "note: a remark" in out
    code, _, err = cli("demo", "-o", tmp_path / "new" / "demo")
    assert code == 2
    assert "must be an empty or a new folder" in err
    assert cli("demo", "-o", tmp_path / "new" / "demo", "--overwrite")[0] == 0
    assert seen == [tmp_path / "new" / "demo"] * 2


@pytest.mark.parametrize("wrong", [["--steps", "0"], ["--size", "huge"], ["--data", "nowhere"]])
def test_train_checks_what_it_is_given(cli, tmp_path, wrong):
    code, _, err = cli("train", "gaussian-2", "-o", tmp_path / "out", *wrong)
    assert code == 2
    assert wrong[0] in err
    assert not (tmp_path / "out").exists()


def test_train_passes_the_changes_on(cli, tmp_path, monkeypatch):
    import napari_deblur.train.loop

    seen = {}

    def train(recipe_id, out_dir, **options):
        seen.update(options, id=recipe_id, out_dir=out_dir)
        return [out_dir / "w.safetensors"]

    monkeypatch.setattr(napari_deblur.train.loop, "train", train)
    code, out, _ = cli(
        "train", "gaussian-2", "-o", tmp_path, "--steps", 3, "--learning-rate", "1e-3", "--restart"
    )
    assert code == 0
    assert "w.safetensors" in out
    assert (seen["id"], seen["steps"], seen["learning_rate"], seen["resume"]) == (
        "gaussian-2",
        3,
        1e-3,
        False,
    )
