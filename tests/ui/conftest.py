from __future__ import annotations

import gc
import threading
from typing import ClassVar, Literal

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils.notifications import ErrorNotification, NotificationSeverity, notification_manager
from qtpy.QtCore import QEvent, QThread, QThreadPool
from qtpy.QtWidgets import QApplication

from napari_deblur import samples
from napari_deblur.core.params import Declared, Param
from napari_deblur.ui.qt import alive
from napari_deblur.ui.worker import job_board

TIMEOUT_MS = 30_000


class Example(Declared):
    """One parameter of every kind."""

    kind: Literal["example"] = "example"
    title: ClassVar[str] = "Example"
    summary: ClassVar[str] = "An example."

    count: int = Param(20, ge=1, le=2000, title="Count", help="How many.")
    weight: float = Param(0.002, ge=0, le=0.1, step=0.001, title="Weight", help="How strong.")
    tiny: float = Param(1e-4, gt=0, le=1, step=0.01, title="Tiny", help="Very small.")
    width_px: float = Param(2.5, gt=0, title="Width", help="How wide.", unit="px")
    offset: float = Param(0.0, title="Offset", help="Any number.")
    mode: Literal["one", "two"] = Param("one", title="Mode", help="Which.")
    on: bool = Param(True, title="On", help="Whether.")
    text: str = Param("abc", title="Text", help="Words.")
    tile_px: int | None = Param(None, ge=64, title="Tile", help="Chosen if not given.", advanced=True)
    ratio: float | None = Param(
        None, gt=0, le=10, title="Ratio", help="Measured if not given.", shown_if={"mode": ("two",)}
    )


class Other(Declared):
    """Another method."""

    kind: Literal["other"] = "other"
    title: ClassVar[str] = "Other"
    learned: ClassVar[bool] = True
    strength: float = Param(0.5, ge=0, le=1, title="Strength", help="How strong.")


@pytest.fixture(scope="session", autouse=True)
def _quick_collections(qapp, sample):
    """Keep what is loaded once out of the many garbage collections that closing viewers and layers makes."""
    import napari  # noqa: F401
    import torch  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def example() -> type[Example]:
    return Example


@pytest.fixture
def other() -> type[Other]:
    return Other


def wait_idle(qtbot) -> None:
    """Wait until no job runs and every thread of the pool is done."""
    qtbot.waitUntil(lambda: not job_board().busy, timeout=TIMEOUT_MS)
    assert QThreadPool.globalInstance().waitForDone(TIMEOUT_MS)
    QApplication.processEvents()


@pytest.fixture
def in_gui_thread(qapp):
    return lambda: QThread.currentThread() is qapp.thread()


@pytest.fixture
def idle(qtbot):
    return lambda: wait_idle(qtbot)


@pytest.fixture(autouse=True)
def _nothing_is_left(qtbot):
    """Fail a test that leaves a running job, a thread or a top-level widget behind."""
    before = set(QApplication.topLevelWidgets())
    threads = {thread.ident for thread in threading.enumerate()}
    yield
    wait_idle(qtbot)
    extra = [t for t in threading.enumerate() if t.ident not in threads and "napari_deblur" in repr(t)]
    assert not extra
    gc.collect()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    QApplication.processEvents()
    left = [
        widget
        for widget in set(QApplication.topLevelWidgets()) - before
        if type(widget).__module__.startswith("napari_deblur")
    ]
    assert not left, left


@pytest.fixture
def notes(monkeypatch):
    """Collect notifications as (severity, text); unexpected warnings and errors fail the test."""
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(
        notification_manager, "dispatch", lambda note: found.append((str(note.severity), note.message))
    )
    return found


@pytest.fixture(autouse=True)
def _no_surprises(request, monkeypatch):
    """Fail a test in which napari shows a warning or an error that no ``notes`` fixture asked for."""
    if "notes" in request.fixturenames:
        yield
        return
    seen: list[str] = []

    def keep(notification) -> None:
        if notification.severity >= NotificationSeverity.WARNING:
            text = notification.message
            if isinstance(notification, ErrorNotification):
                import traceback

                text = "".join(traceback.format_exception(notification.exception))
            seen.append(str(text))

    monkeypatch.setattr(notification_manager, "dispatch", keep)
    yield
    assert not seen, seen


def pytest_configure(config):
    config.addinivalue_line("markers", "window: in a whole napari window, not on a viewer's model alone")


@pytest.fixture
def viewer(request):
    """A napari window for tests marked ``window``; else the viewer's model, which is made much faster."""
    if request.node.get_closest_marker("window"):
        return request.getfixturevalue("make_napari_viewer")(strict_qt=True)
    return ViewerModel()


@pytest.fixture
def opened(viewer, qtbot):
    """Open docks as a user of the window would."""

    def open_dock(cls):
        dock = cls(viewer)
        if hasattr(viewer, "window"):
            viewer.window.add_dock_widget(dock, name=dock.title)
        else:
            qtbot.addWidget(dock)
        docks.append(dock)
        return dock

    docks = []
    yield open_dock
    for dock in docks:
        if alive(dock):
            dock.release()


@pytest.fixture(scope="session")
def sample():
    """Cells on a tilted plane with their true PSF map; rendered once."""
    return samples.tilted_cells(256)


@pytest.fixture
def picture() -> np.ndarray:
    """Blobs on a slope, with noise: 96 × 112, odd enough to show swapped axes."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :112].astype(np.float32)
    image = 50 + 0.5 * y
    for _ in range(25):
        cy, cx = rng.uniform(0, 96), rng.uniform(0, 112)
        image += 200 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 8)
    return (image + rng.normal(0, 2, image.shape)).astype(np.float32)
