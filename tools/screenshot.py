"""Run the main job in a real window through the docks' own buttons, then a comparison; save pictures of both.

Usage: ``xvfb-run -a -s "-screen 0 1920x1200x24" python tools/screenshot.py [FOLDER [FOLDER_FOR_EVERY_STEP]]``
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import napari
from qtpy.QtWidgets import QApplication, QDockWidget

from napari_deblur.ui.background_dock import BackgroundDock
from napari_deblur.ui.calibration_panel import TiltedPlane
from napari_deblur.ui.compare_dock import CompareDock
from napari_deblur.ui.deblur_dock import DeblurDock
from napari_deblur.ui.depth_dock import DepthDock
from napari_deblur.ui.dock import StepDock
from napari_deblur.ui.psf_map_dock import PsfMapDock
from napari_deblur.ui.samples import tilted_cells
from napari_deblur.ui.worker import job_board

SIZE_PX = (1640, 1000)
DOCK_PX = 360


def settle(seconds: float = 0.3) -> None:
    """Let Qt draw."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        QApplication.processEvents()
        time.sleep(0.01)


def press(dock: StepDock, *, preview: bool = False) -> None:
    """Press Run or Preview and wait until the result is there."""
    (dock.preview_button if preview else dock.run_button).click()
    settle()
    while job_board().busy:
        settle(0.05)
    settle()
    print(f"{dock.title}: {dock.message.text()} [{dock.status.text()}]")


def open_docks(viewer: napari.Viewer) -> dict[str, Any]:
    """Open all docks as tabs on the right."""
    docks: dict[str, Any] = {}
    first: QDockWidget | None = None
    for cls in (BackgroundDock, PsfMapDock, DeblurDock, CompareDock, DepthDock):
        dock = cls(viewer)
        outer = viewer.window.add_dock_widget(dock, name=cls.title, area="right", tabify=first is not None)
        first = first or outer
        docks[cls.title] = dock
    window = first.window() if first is not None else None
    if window is not None and first is not None:
        window.resizeDocks([first], [DOCK_PX], _horizontal())
    return docks


def _horizontal() -> Any:
    from qtpy.QtCore import Qt

    return Qt.Orientation.Horizontal


def raise_dock(dock: StepDock) -> None:
    """Bring a tab to the front."""
    parent = dock.parentWidget()
    while parent is not None and not isinstance(parent, QDockWidget):
        parent = parent.parentWidget()
    if parent is not None:
        parent.raise_()
    settle()


def choose(dock: StepDock, name: str, viewer: napari.Viewer) -> None:
    """Choose the input of a dock by its name."""
    dock.picker.choose(viewer.layers[name])


def main_job(viewer: napari.Viewer, docks: dict[str, Any], shots: Path | None) -> None:
    """Background, PSF map, deblurring and depth, one after the other."""
    name = viewer.layers[0].name
    front = f"{name} · foreground"
    for title, prepare in {
        "Background": lambda dock: choose(dock, name, viewer),
        "PSF map": lambda dock: choose(dock, front, viewer),
        "Deblur": lambda dock: choose(dock, front, viewer),
        "Depth": lambda dock: _calibrated(dock, front, viewer),
    }.items():
        dock = docks[title]
        raise_dock(dock)
        prepare(dock)
        press(dock)
        if title == "PSF map":
            dock.show_at(viewer.layers[front].data_to_world((450.0, 180.0)))
        if shots is not None:
            save(viewer, shots / f"{title.lower().replace(' ', '-')}.png")


def _calibrated(dock: DepthDock, name: str, viewer: napari.Viewer) -> None:
    choose(dock, name, viewer)
    dock.calibration.tilted.set(TiltedPlane(tilt_deg=12.0, azimuth_deg=90.0))
    dock.calibration.fit_button.click()


def save(viewer: napari.Viewer, path: Path) -> None:
    """Save a picture of the whole window."""
    settle(0.5)
    viewer.window.screenshot(str(path), flash=False)


def arrange(viewer: napari.Viewer, docks: dict[str, Any]) -> None:
    """Show what the job found side by side: input, PSF map, deblurred image, depth."""
    name = viewer.layers[0].name
    front = f"{name} · foreground"
    method = docks["Deblur"].method.method_class.title
    cells = [
        [name],
        [front, f"{front} · defocus (waves)", f"{front} · astigmatism axis"],
        [f"{front} · {method}"],
        [f"{front} · depth (µm)"],
    ]
    # The grid puts as many neighbouring layers into every cell; hidden ones fill the gaps.
    shown = [layer for cell in cells for layer in cell]
    spare = [layer.name for layer in viewer.layers if layer.name not in shown and layer.ndim == 2]
    deepest = max(map(len, cells))
    order = [
        layer for cell in cells for layer in [*cell, *(spare.pop(0) for _ in range(deepest - len(cell)))]
    ]
    for layer in list(viewer.layers):
        if layer.name not in order:
            viewer.layers.remove(layer)
    for position, layer in enumerate(order):
        viewer.layers.move(viewer.layers.index(layer), position)
        viewer.layers[layer].visible = layer in shown
    grid = viewer.canvas.grid
    grid.stride, grid.shape, grid.enabled = deepest, (2, 2), True
    viewer.dims.ndisplay = 2
    viewer.fit_to_view()
    raise_dock(docks["PSF map"])


def compare(viewer: napari.Viewer, dock: CompareDock) -> None:
    """Compare methods on the middle of the input with the PSF map that is there."""
    name = viewer.layers[0].name
    viewer.layers[name].visible = True
    viewer.canvas.grid.enabled = False
    viewer.fit_to_view(layers=[viewer.layers[name]])
    raise_dock(dock)
    choose(dock, name, viewer)
    press(dock, preview=True)
    dock.table.selectRow(3)
    settle()


def main() -> None:
    """Make the pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs")
    shots = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    viewer = napari.Viewer(title="napari-deblur")
    viewer.window.resize(*SIZE_PX)
    docks = open_docks(viewer)
    ((data, options, _),) = tilted_cells()
    viewer.add_image(data, **options)
    viewer.canvas.overlays.scale_bar.visible = True
    settle(1.0)
    main_job(viewer, docks, shots)
    arrange(viewer, docks)
    folder.mkdir(exist_ok=True)
    save(viewer, folder / "window.png")
    compare(viewer, docks["Compare"])
    save(viewer, folder / "compare.png")
    viewer.close()


if __name__ == "__main__":
    main()
