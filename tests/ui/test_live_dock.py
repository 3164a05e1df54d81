from __future__ import annotations

import numpy as np
import pytest

from napari_deblur.nets.deformable import DeformableNet
from napari_deblur.nets.weights import WEIGHTS_VARIABLE, find_model
from napari_deblur.ui.layers import METADATA_KEY
from napari_deblur.ui.live_dock import LiveDock
from napari_deblur.ui.worker import job_board

PREVIEW = "cells · Live defocus (learned) · preview"


@pytest.fixture
def encodings(monkeypatch):
    """Count how often an image is encoded, and in which thread."""
    from qtpy.QtCore import QThread

    calls = []
    encode = DeformableNet.encode
    monkeypatch.setattr(
        DeformableNet, "encode", lambda net, x: calls.append(QThread.currentThread()) or encode(net, x)
    )
    return calls


@pytest.fixture
def cells(viewer, picture):
    return viewer.add_image(picture, name="cells", scale=(0.2, 0.2), units=("um", "um"), colormap="magenta")


@pytest.fixture
def dock(opened, latent_weights, cells):
    return opened(LiveDock)


def preview_of(viewer):
    return viewer.layers[PREVIEW]


def test_a_slider_is_followed_and_the_image_encoded_once(dock, viewer, idle, encodings, cells, qapp):
    dock.preview()
    idle()
    first = preview_of(viewer).data.copy()
    slider = dock.sliders.sliders["defocus_um"]
    slider.setValue(12.0)
    idle()
    preview = preview_of(viewer)
    assert len(encodings) == 1
    assert encodings[0] is not qapp.thread(), "never in the window's thread"
    assert preview.data.shape == cells.data.shape
    assert np.abs(preview.data - first).max() > 0
    assert preview.metadata[METADATA_KEY]["parameters"] == {"defocus_um": 12.0}
    assert preview.metadata[METADATA_KEY]["learned"] is True
    id = "latent-deformation-zone-plate"
    assert preview.metadata[METADATA_KEY]["weights"] == {id: find_model(id).sha256}
    assert preview.colormap.name == "magenta"
    np.testing.assert_allclose(preview.scale, cells.scale)
    assert dock.message.text() == "Restored for defocus 12 µm"
    assert len(viewer.layers) == 2, "the preview is updated in place"


def test_only_the_last_position_of_a_fast_slider_waits(dock, viewer, idle, monkeypatch):
    started = []
    board = job_board()
    start = board.start
    monkeypatch.setattr(board, "start", lambda job: started.append(job.title) or start(job))
    slider = dock.sliders.sliders["defocus_um"]
    for value in np.linspace(1, 14, 40):
        slider.setValue(value)
    idle()
    idle()
    assert preview_of(viewer).metadata[METADATA_KEY]["parameters"]["defocus_um"] == pytest.approx(14)
    assert len(started) <= 3


def test_another_job_is_waited_for(dock, viewer, idle, qtbot):
    import threading

    from napari_deblur.ui.worker import Job

    gate = threading.Event()
    job_board().start(Job("busy", lambda run: gate.wait(20), lambda value: None, dock))
    dock.sliders.sliders["defocus_um"].setValue(9.0)
    assert job_board().current.title == "busy"
    gate.set()
    qtbot.waitUntil(lambda: PREVIEW in viewer.layers, timeout=20_000)
    idle()
    assert preview_of(viewer).metadata[METADATA_KEY]["parameters"] == {"defocus_um": 9.0}


def test_every_network_has_its_sliders(dock, viewer, idle, encodings):
    dock.preview()
    idle()
    for network, names in {
        "defocus": ["defocus_waves"],
        "astigmatism": ["defocus_waves", "astigmatism_waves", "axis_rad"],
    }.items():
        dock.combo.setCurrentIndex(dock.combo.findData(network))
        idle()
        assert list(dock.sliders.sliders) == names
        assert list(preview_of(viewer).metadata[METADATA_KEY]["parameters"]) == names
    assert len(encodings) == 3


def test_run_restores_the_whole_stack_as_a_result(opened, latent_weights, viewer, idle, picture):
    stack = viewer.add_image(np.stack([picture, picture[::-1]]), name="cells")
    dock = opened(LiveDock)
    dock.sliders.sliders["defocus_um"].setValue(5.0)
    idle()
    viewer.dims.set_current_step(0, 1)
    dock.sliders.sliders["defocus_um"].setValue(6.0)
    idle()
    other_plane = preview_of(viewer).data.copy()
    dock.run()
    idle()
    result = viewer.layers["cells · Latent deformation (learned)"]
    assert result.data.shape == stack.data.shape
    assert result.metadata[METADATA_KEY]["step"]["method"]["defocus_um"] == 6.0
    np.testing.assert_allclose(other_plane[0], result.data[1], rtol=1e-3, atol=0.1)


def test_the_preview_of_a_part_is_what_a_run_gives(opened, latent_weights, viewer, idle, monkeypatch):
    monkeypatch.setattr(LiveDock, "preview_px", 70)
    large = np.cumsum(np.random.default_rng(0).normal(size=(530, 541)), axis=0).astype(np.float32) + 100
    viewer.add_image(large, name="cells")
    dock = opened(LiveDock)
    dock.preview()
    idle()
    dock.run()
    idle()
    preview, result = preview_of(viewer), viewer.layers["cells · Latent deformation (learned)"]
    assert preview.data.shape == (70, 70)
    top, left = (int(at) for at in preview.translate)
    np.testing.assert_allclose(preview.data, result.data[top : top + 70, left : left + 70], atol=0.02)


def test_preview_takes_changed_pixels_anew(dock, viewer, idle, encodings, cells):
    dock.preview()
    idle()
    cells.data = cells.data[:, ::-1].copy()
    dock.preview()
    idle()
    assert len(encodings) == 2


def test_without_weights_it_says_so(opened, cells, monkeypatch, tmp_path, notes, viewer, idle):
    from napari_deblur.methods import latent_image

    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    monkeypatch.setattr(latent_image, "NETWORKS", dict.fromkeys(latent_image.NETWORKS, "latent-none"))
    dock = opened(LiveDock)
    assert "No network for this is installed" in dock.about.text()
    dock.preview()
    idle()
    assert len(viewer.layers) == 1
    assert any("must be one of" in text for _, text in notes)


def test_without_an_image_preview_names_the_fix(opened, latent_weights, viewer, notes):
    dock = opened(LiveDock)
    dock.sliders.sliders["defocus_um"].setValue(3.0)
    assert notes == [], "who moves a slider has asked for nothing yet"
    dock.preview_button.click()
    assert notes == [("error", "layer must be chosen: open an image first; received no image layer")]
    assert dock.message.text() == notes[0][1]


def test_a_fault_while_following_is_told_once(dock, viewer, idle, notes, monkeypatch):
    def broken(source, region):
        raise RuntimeError("no such network")

    monkeypatch.setattr(dock, "prepare", broken)
    dock.preview_button.click()
    assert notes == [("error", "no such network")]
    assert dock.message.text() == "no such network"
    monkeypatch.undo()
    dock.preview_button.click()
    idle()
    assert PREVIEW in viewer.layers


def test_closing_the_dock_forgets_what_waits(dock, viewer, idle):
    dock.preview()
    dock.sliders.sliders["defocus_um"].setValue(3.0)
    dock.release()
    idle()
    assert not job_board().busy
