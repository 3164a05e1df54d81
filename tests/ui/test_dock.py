from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QLabel

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.record import Record
from napari_deblur.ui.dock import StepDock
from napari_deblur.ui.layers import METADATA_KEY
from napari_deblur.ui.qt import alive
from napari_deblur.ui.results import Result, add_results
from napari_deblur.ui.worker import job_board


class SlowDock(StepDock):
    """Adds 1 to the image, slowly."""

    title = "Plus one"
    pauses = done = 0
    pause_s = 0.01
    fails: Exception | None = None

    def build(self, body):
        body.addWidget(QLabel("nothing to choose"))

    def prepare(self, source, region):
        def work(run):
            image = source.checked(region)
            for done in range(self.pauses):
                self.done = done
                run.step(done, self.pauses, f"step {done}")
                time.sleep(self.pause_s)
            if self.fails:
                raise self.fails
            run.note("It went well.")
            return image.data + 1

        def done(data):
            add_results(self.viewer, source, region, Record(step={"kind": "plus"}), [Result(data, "plus")])
            self.show_status("cpu", 0.1)

        return work, done


@pytest.fixture
def dock(opened):
    return opened(SlowDock)


@pytest.mark.window
def test_run_adds_a_layer_at_the_same_place(viewer, dock, idle, picture):
    affine = np.array([[0.9, -0.2, 3.0], [0.1, 1.1, -4.0], [0, 0, 1]])
    place = {"scale": (0.5, 0.25), "rotate": 20, "shear": [0.1], "translate": (3, 4), "affine": affine}
    layer = viewer.add_image(picture, name="cells", units=("um", "um"), axis_labels=("y", "x"), **place)
    dock.run_button.click()
    assert not dock.run_button.isEnabled()
    idle()
    result = viewer.layers["cells · plus"]
    np.testing.assert_array_equal(layer.data, picture)
    np.testing.assert_array_equal(result.data, picture + 1)
    assert result.data.dtype == np.float32
    for name in ("scale", "translate", "rotate", "shear"):
        np.testing.assert_allclose(getattr(result, name), getattr(layer, name), atol=1e-9)
    np.testing.assert_allclose(result.affine.affine_matrix, layer.affine.affine_matrix)
    assert (result.units, result.axis_labels) == (layer.units, layer.axis_labels)
    assert result.metadata[METADATA_KEY]["step"] == {"kind": "plus"}
    assert dock.run_button.isEnabled()
    assert dock.message.text() == "It went well."
    assert dock.status.text() == "cpu · 0.1 s"


@pytest.mark.window
def test_preview_lies_where_it_was_taken_and_replaces_itself(viewer, dock, idle):
    data = np.random.default_rng(0).random((2, 500, 600)).astype(np.float32)
    layer = viewer.add_image(data, name="cells", scale=(1, 0.5, 0.5))
    viewer.dims.set_point(0, 1)
    viewer.scene.camera.center = (0, 125, 150)
    for _ in range(2):
        dock.preview_button.click()
        idle()
    previews = [layer for layer in viewer.layers if "preview" in layer.name]
    assert len(previews) == 1
    preview = previews[0]
    assert preview.data.shape == (1, 256, 256)
    offset = layer.world_to_data(preview.data_to_world((0, 0, 0)))
    np.testing.assert_allclose(offset, (1, 122, 172), atol=1e-6)
    np.testing.assert_array_equal(preview.data[0], data[1, 122:378, 172:428] + 1)
    assert dock.picker.layer() is layer, "a preview is no input"


@pytest.mark.window
def test_progress_and_cancel(viewer, dock, idle, qtbot, picture):
    viewer.add_image(picture, name="cells")
    dock.pauses = 1000
    dock.run()
    qtbot.waitUntil(lambda: dock.bar.value() > 0, timeout=10_000)
    assert dock.message.text().startswith("step")
    assert dock.cancel_button.isEnabled()
    dock.cancel_button.click()
    idle()
    assert dock.done < dock.pauses - 1, "not at its end"
    assert [layer.name for layer in viewer.layers] == ["cells"]
    assert dock.message.text() == "Cancelled; nothing was added"
    assert dock.run_button.isEnabled()
    assert not dock.cancel_button.isEnabled()


def test_other_docks_say_that_one_is_busy(viewer, dock, opened, idle, picture, notes):
    other = opened(SlowDock)
    viewer.add_image(picture, name="cells")
    gate = threading.Event()
    dock.prepare = lambda source, region: (lambda run: gate.wait(10), lambda value: None)
    dock.run()
    assert not other.run_button.isEnabled()
    assert not other.cancel_button.isEnabled()
    assert other.message.text() == "Busy: Plus one on cells"
    other.run()
    assert "Another napari-deblur job is running" in notes[0][1]
    gate.set()
    idle()
    assert other.run_button.isEnabled()
    assert other.message.text() == ""


def test_errors_are_notifications_and_the_dock_lives_on(viewer, dock, idle, picture, notes):
    viewer.add_image(picture, name="cells")
    dock.fails = InvalidInputError("image", "must be sharp", "a blurred one")
    dock.run()
    idle()
    assert notes == [("error", "image must be sharp; received a blurred one")]
    assert dock.message.text() == "image must be sharp; received a blurred one"
    dock.fails = None
    dock.run()
    idle()
    assert "cells · plus" in viewer.layers


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (RuntimeError("the form is broken"), "the form is broken"),
        (MemoryError(), "Memory ran out: close other images, or run on a smaller part"),
    ],
)
def test_any_fault_before_a_job_is_told_once(viewer, dock, idle, picture, notes, monkeypatch, fault, told):
    viewer.add_image(picture, name="cells")

    def broken(source, region):
        raise fault

    monkeypatch.setattr(dock, "prepare", broken)
    dock.run_button.click()
    assert notes == [("error", told)]
    assert dock.message.text() == told
    assert not job_board().busy
    monkeypatch.undo()
    dock.run_button.click()
    idle()
    assert "cells · plus" in viewer.layers


def test_any_fault_of_an_action_is_told(dock, notes):
    assert dock.attempt(lambda: 1 / 0) is None
    assert notes == [("error", "division by zero")]


def test_facts_of_an_older_run_are_not_repeated(viewer, dock, idle, picture):
    viewer.add_image(picture, name="cells")

    def done(_):
        dock.facts = "flux +1%"

    dock.submit("a run", lambda run: None, done)
    idle()
    assert dock.message.text() == "flux +1%"
    dock.submit("something else", lambda run: None, lambda _: None)
    idle()
    assert dock.message.text() == "Done"


@pytest.mark.parametrize(
    ("data", "options", "text"),
    [
        (np.zeros((64, 64, 3), np.uint8), {"rgb": True}, "Split RGB"),
        (np.full((64, 64), 7.0), {}, "must not be constant"),
        (np.where(np.eye(64) > 0, np.nan, 1.0), {"contrast_limits": (0, 1)}, "must be finite"),
        (np.eye(8), {}, "at least 16 × 16"),
        (np.arange(64), {}, "axes y and x"),
    ],
)
def test_bad_images_are_refused_with_a_sentence(viewer, dock, idle, notes, data, options, text):
    if data.ndim == 1:
        with pytest.raises(ValueError, match="dimensions"):
            viewer.add_image(data)
        return
    viewer.add_image(data, name="bad", **options)
    dock.run()
    idle()
    assert len(notes) == 1
    assert notes[0][0] == "error"
    assert text in notes[0][1]
    assert "bad" in notes[0][1]
    assert len(viewer.layers) == 1


def test_no_layer_at_all(dock, notes):
    dock.run()
    dock.preview()
    assert [text for _, text in notes] == [
        "layer must be chosen: open an image first; received no image layer"
    ] * 2


@pytest.mark.window
def test_a_layer_deleted_mid_run_loses_nothing(viewer, dock, idle, qtbot, picture):
    viewer.add_image(picture, name="cells", scale=(2, 2))
    dock.pauses = 30
    dock.run()
    qtbot.waitUntil(lambda: dock.bar.value() > 0, timeout=10_000)
    viewer.layers.clear()
    idle()
    assert [layer.name for layer in viewer.layers] == ["cells · plus"]
    np.testing.assert_array_equal(viewer.layers[0].scale, (2, 2))


@pytest.mark.window
def test_a_dock_closed_mid_run_ends_its_job(viewer, dock, idle, qtbot, picture):
    viewer.add_image(picture, name="cells")
    dock.pauses = 1000
    dock.run()
    qtbot.waitUntil(lambda: dock.bar.value() > 0, timeout=10_000)
    viewer.window.remove_dock_widget(dock)
    idle()
    assert dock.done < dock.pauses - 1, "not at its end"
    assert [layer.name for layer in viewer.layers] == ["cells"]
    qtbot.waitUntil(lambda: not alive(dock))
    viewer.add_image(picture, name="more")


def test_a_viewer_closed_mid_run_ends_its_job(make_napari_viewer, idle, qtbot, picture):
    viewer = make_napari_viewer()
    dock = SlowDock(viewer)
    viewer.window.add_dock_widget(dock, name="slow")
    viewer.add_image(picture, name="cells")
    dock.pauses = 1000
    dock.run()
    qtbot.waitUntil(lambda: dock.bar.value() > 0, timeout=10_000)
    viewer.close()
    idle()
    assert dock.done < dock.pauses - 1, "not at its end"
    assert not job_board().busy


@pytest.mark.window
def test_the_window_stays_responsive_while_a_job_runs(viewer, dock, idle, qtbot, picture):
    viewer.add_image(picture, name="cells")
    dock.pauses, dock.pause_s = 20, 0.02
    seen = []
    timer = QTimer()
    timer.timeout.connect(lambda: seen.append(job_board().busy))
    timer.start(0)
    dock.run()
    idle()
    timer.stop()
    assert seen.count(True) >= 5, "events are handled while the job is at it"


def test_the_picker_follows_the_layer_list(viewer, dock, picture):
    assert dock.picker.layer() is None
    first = viewer.add_image(picture, name="first")
    assert dock.picker.layer() is first
    second = viewer.add_image(picture, name="second")
    assert dock.picker.layer() is first, "the choice is kept"
    viewer.add_labels(np.zeros((9, 9), int))
    viewer.add_image(picture, name="overlay", metadata={METADATA_KEY: {"role": "overlay"}})
    assert [dock.picker.itemText(i) for i in range(dock.picker.count())] == ["first", "second"]
    second.name = "renamed"
    assert dock.picker.itemText(1) == "renamed"
    dock.picker.choose(second)
    assert dock.picker.layer() is second
    viewer.layers.remove(second)
    assert dock.picker.layer() is first
    viewer.layers.clear()
    assert dock.picker.layer() is None


def test_the_picker_starts_with_the_active_layer(viewer, opened, picture):
    first = viewer.add_image(picture, name="first")
    viewer.add_image(picture, name="second")
    viewer.layers.selection.active = first
    assert opened(SlowDock).picker.layer() is first


def test_opening_a_dock_finds_the_device_in_another_thread(viewer, opened, qtbot, monkeypatch, in_gui_thread):
    from napari_deblur.ui import device, dock

    where = []

    class Engine:
        def describe(self):
            where.append(in_gui_thread())
            return "a fast device"

    monkeypatch.setattr(device, "device_line", lambda: device.NOT_KNOWN_YET)
    monkeypatch.setattr(dock, "device_line", lambda: device.NOT_KNOWN_YET)
    monkeypatch.setattr(device, "engine_on", lambda wanted: Engine())
    made = opened(SlowDock)
    assert made.status.text() == device.NOT_KNOWN_YET
    qtbot.waitUntil(lambda: made.status.text() == "a fast device", timeout=5000)
    assert where == [False]
