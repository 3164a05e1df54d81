from __future__ import annotations

import json

import pytest
import torch

from napari_deblur.core.checksums import file_sha256
from napari_deblur.core.errors import UnknownNameError, WeightsError
from napari_deblur.nets.identification import build, default_config
from napari_deblur.nets.weights import (
    WEIGHTS_VARIABLE,
    find_model,
    list_models,
    load_network,
    save_network,
)
from napari_deblur.optics.psf import FAMILIES, family

SMALL = {
    "widths": [16, 16, 16, 16],
    "blocks": [1, 1, 1, 1],
    "spectral_width": 16,
    "spectral_features": 8,
    "hidden": 16,
}


@pytest.fixture
def user_folder(tmp_path, monkeypatch):
    """A user's weights folder with a tiny zernike-3 network."""
    torch.manual_seed(0)
    network = build(default_config("zernike-3") | SMALL)
    chosen = family("zernike-3")
    card = {
        "id": "zernike-3",
        "config": network.config,
        "parameter_names": list(chosen.parameter_names),
        "parameter_ranges": {name: list(bounds) for name, bounds in chosen.parameter_ranges.items()},
        "licence": "BSD-3-Clause",
    }
    save_network(network.state_dict(), card, tmp_path)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    return tmp_path


def _edit_card(folder, **changes):
    path = folder / "zernike-3.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, **changes}))


def test_shipped_networks_are_listed_with_honest_cards(monkeypatch):
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    models = {model.id: model for model in list_models() if model.parameter_names}
    assert {"gaussian-1", "gaussian-2", "zernike-1", "zernike-2", "zernike-3"} <= set(models)
    for model in models.values():
        chosen = FAMILIES[model.id]
        assert model.parameter_names == chosen.parameter_names
        assert model.parameter_ranges == chosen.parameter_ranges
        assert model.sha256 == file_sha256(model.path)
        card = model.card
        assert card["licence"] == "BSD-3-Clause"
        assert card["training"]["steps"] > 0
        assert card["held_out"]
        assert card["photons"] == [50, 20000]
        assert "training-resources" in card["data"]["held_out_for_test"]
        assert not any("training-resources" in group for group in card["data"]["groups"])
        assert not any("CellProfiler/examples" in group for group in card["data"]["groups"])
        assert model.path.stat().st_size < 6e6


@pytest.mark.parametrize("model", ["gaussian-2", "zernike-3"])
def test_shipped_networks_load_for_inference(model, monkeypatch):
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    network, card = load_network(model)
    assert not network.training
    assert card["id"] == model
    assert all(not parameter.requires_grad for parameter in network.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    with torch.no_grad():
        found = network.estimate(torch.rand((1, 128, 128)))
    assert found.parameters.shape == (1, len(family(model).parameter_names))


def test_a_users_folder_comes_first(user_folder):
    assert find_model("zernike-3").path.parent == user_folder
    assert next(model for model in list_models() if model.id == "zernike-3").path.parent == user_folder
    network, card = load_network("zernike-3")
    assert card["config"]["widths"] == [16, 16, 16, 16]
    assert network.model == "zernike-3"
    # What the user's folder lacks still comes from the package.
    assert find_model("gaussian-2").path.parent != user_folder


def test_written_files_are_half_precision_and_readable_by_all(user_folder):
    from safetensors.torch import load_file

    path = user_folder / "zernike-3.safetensors"
    assert all(tensor.dtype in (torch.float16, torch.int64) for tensor in load_file(path).values())
    assert path.stat().st_mode & 0o044
    assert not list(user_folder.glob("*.part"))


def test_a_missing_user_folder_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(WeightsError, match="NAPARI_DEBLUR_WEIGHTS must name an existing folder"):
        list_models()


def test_an_unknown_model_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match="zernike-3"):
        load_network("zernike-99")


def test_a_missing_weight_file_is_refused(user_folder):
    (user_folder / "zernike-3.safetensors").unlink()
    with pytest.raises(WeightsError, match="is missing"):
        load_network("zernike-3")


def test_one_changed_byte_is_refused(user_folder):
    path = user_folder / "zernike-3.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="must have the sha256 that its card states"):
        load_network("zernike-3")


def test_a_file_that_is_no_safetensors_is_refused_even_with_its_own_sha(user_folder):
    path = user_folder / "zernike-3.safetensors"
    path.write_bytes(b"\x80\x04pickled")
    _edit_card(user_folder, sha256=file_sha256(path))
    with pytest.raises(WeightsError, match="does not fit its card"):
        load_network("zernike-3")


def test_weights_of_another_shape_are_refused(user_folder):
    card = json.loads((user_folder / "zernike-3.json").read_text())
    _edit_card(user_folder, config=card["config"] | {"hidden": 32})
    with pytest.raises(WeightsError, match="does not fit its card"):
        load_network("zernike-3")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "format"),
        ({"id": "other"}, "id"),
        ({"config": {"architecture": "unet"}}, "architecture"),
    ],
)
def test_cards_of_something_else_are_refused(user_folder, changes, message):
    _edit_card(user_folder, **changes)
    with pytest.raises(WeightsError, match=message):
        load_network("zernike-3")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"id": "zernike-3"}'])
def test_unreadable_cards_are_refused(user_folder, content):
    (user_folder / "zernike-3.json").write_text(content)
    with pytest.raises(WeightsError, match="the card"):
        load_network("zernike-3")


def test_a_cards_error_scale_is_applied(user_folder):
    plain, card = load_network("zernike-3")
    factors = dict.fromkeys(card["config"]["regressed"], 1.5)
    _edit_card(user_folder, error_scale=factors)
    scaled, _ = load_network("zernike-3")
    torch.testing.assert_close(scaled.error_scale, 1.5 * plain.error_scale)
    _edit_card(user_folder, error_scale={"defocus_waves": 1.5})
    with pytest.raises(WeightsError, match="error_scale lacks"):
        load_network("zernike-3")
