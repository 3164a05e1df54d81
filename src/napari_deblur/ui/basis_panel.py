"""Build a PSF basis from bead layers, look at its PSFs, save and load it, and find an image's blur in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.run import Run
from napari_deblur.optics.bead_fields import BeadBasis
from napari_deblur.optics.psf_basis import PsfBasis
from napari_deblur.ui.bases import basis_store
from napari_deblur.ui.forms import FormWithReset
from napari_deblur.ui.layers import LayerImage
from napari_deblur.ui.picker import is_input
from napari_deblur.ui.psf_view import coloured
from napari_deblur.ui.qt import WheelGuard, alive, caption

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

Submit = Callable[[str, Callable[[Run], Any], Callable[[Any], None]], bool]
_FILTER = "PSF basis (*.npz)"
_MOST_SHOWN, _SIDE_PX, _LIST_PX = 5, 38, 84


class BasisPanel(QWidget):
    """Makes and shows PSF bases.

    Parameters
    ----------
    viewer : Viewer
    submit : callable
        Starts a job; see `StepDock.submit`.
    attempt : callable
        Runs an action and shows its errors.
    find : callable
        Called with a basis, to find the blur of the dock's image in it.
    """

    def __init__(
        self,
        viewer: Viewer,
        submit: Submit,
        attempt: Callable[[Callable[[], Any]], Any],
        find: Callable[[PsfBasis], Any],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._viewer, self._submit, self._attempt, self._find = viewer, submit, attempt, find
        self.store = basis_store(viewer)
        self._layers: list[Layer] = []
        self.stacks = QListWidget()
        self.stacks.setFixedHeight(_LIST_PX)
        self.stacks.setToolTip("Tick the bead stacks of this microscope: all of the same field of view")
        self.form: FormWithReset[BeadBasis] = FormWithReset(BeadBasis, "Beads")
        self.build_button = QPushButton("Build basis")
        self.chosen = QComboBox()
        self.chosen.setMinimumContentsLength(12)
        self._guard = WheelGuard(self)
        self._guard.guard(self.chosen)
        self.pictures = [QLabel() for _ in range(_MOST_SHOWN)]
        self.text = caption("None yet: build one from bead stacks, or load one.", dim=True)
        self.save_button, self.load_button = QPushButton("Save basis…"), QPushButton("Load basis…")
        self.find_button = QPushButton("Find the image's blur")
        self.find_button.setToolTip("Find which blur of the basis the image above has, as its PSF map")
        self._lay_out()
        self.build_button.clicked.connect(lambda: self._attempt(self.build))
        self.save_button.clicked.connect(self._ask_save)
        self.load_button.clicked.connect(self._ask_load)
        self.find_button.clicked.connect(lambda: self._attempt(self.find_blur))
        self.chosen.currentIndexChanged.connect(self._show)
        self.store.changed.connect(self._refresh)
        self._events = viewer.layers.events
        for emitter in (self._events.inserted, self._events.removed, self._events.renamed):
            emitter.connect(self._list_layers)
        self._list_layers()
        self._refresh()

    @property
    def basis(self) -> PsfBasis | None:
        """The basis that is shown."""
        return self.store.entries.get(self.chosen.currentText())

    def tick(self, *layers: Layer) -> None:
        """Choose the bead stacks."""
        for index, layer in enumerate(self._layers):
            wanted = any(layer is one for one in layers)
            item = self.stacks.item(index)
            assert item is not None
            item.setCheckState(Qt.CheckState.Checked if wanted else Qt.CheckState.Unchecked)

    def ticked(self) -> list[Layer]:
        """Return the bead stacks that are chosen."""
        items = [self.stacks.item(index) for index in range(self.stacks.count())]
        pairs = zip(self._layers, items, strict=True)
        return [layer for layer, item in pairs if item and item.checkState() == Qt.CheckState.Checked]

    def build(self) -> bool:
        """Learn a basis from the ticked layers, in the worker's thread; False if a job runs already.

        Raises
        ------
        InvalidInputError
            If no layer is ticked or the form breaks a rule.
        """
        layers = self.ticked()
        if not layers:
            raise InvalidInputError("bead stacks", "must be ticked in the list", "none")
        sources, settings = [LayerImage.of(layer) for layer in layers], self.form.value()
        name = f"{sources[0].name} · basis"

        def work(run: Run) -> PsfBasis:
            return settings.measure_basis([source.checked(None) for source in sources], run)

        return self._submit("Building a PSF basis", work, lambda basis: self._add(name, basis))

    def find_blur(self) -> Any:
        """Find the image's blur in the basis that is shown.

        Raises
        ------
        InvalidInputError
            If there is no basis.
        """
        return self._find(self._needed())

    def save(self, path: str | Path) -> None:
        """Write the basis that is shown.

        Raises
        ------
        InvalidInputError
            If there is none.
        OutputError
            If it cannot be written.
        """
        target = self._needed().save(Path(path).with_suffix(".npz"), overwrite=True)
        self.store.saved(self.chosen.currentText(), target.resolve())

    def load(self, path: str | Path) -> None:
        """Read a basis.

        Raises
        ------
        InvalidInputError
            If the file is no basis.
        """
        source = Path(path)
        self._add(source.stem, PsfBasis.load(source), source.resolve())

    def release(self) -> None:
        """Let go of the viewer."""
        self.store.changed.disconnect(self._refresh)
        for emitter in (self._events.inserted, self._events.removed, self._events.renamed):
            emitter.disconnect(self._list_layers)
        self._layers = []

    def _needed(self) -> PsfBasis:
        if (basis := self.basis) is None:
            raise InvalidInputError("PSF basis", "must be built or loaded before", "none")
        return basis

    def _add(self, name: str, basis: PsfBasis, path: Path | None = None) -> None:
        self.store.add(name, basis, path)
        self.chosen.setCurrentText(name)

    def _list_layers(self, _event: Any = None) -> None:
        if not alive(self):
            return
        before = self.ticked() if self._layers else []
        self._layers = [layer for layer in self._viewer.layers if is_input(layer)]
        self.stacks.clear()
        for layer in self._layers:
            item = QListWidgetItem(layer.name)
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
            self.stacks.addItem(item)
        self.tick(*before)

    def _refresh(self) -> None:
        name = self.chosen.currentText()
        blocked = self.chosen.blockSignals(True)
        self.chosen.clear()
        self.chosen.addItems(list(self.store.entries))
        self.chosen.setCurrentText(name)
        self.chosen.blockSignals(blocked)
        self._show()

    def _show(self, _index: int = 0) -> None:
        basis = self.basis
        self.chosen.setVisible(bool(self.store.entries))
        for button in (self.save_button, self.find_button):
            button.setEnabled(basis is not None)
        for label in self.pictures:
            label.setVisible(False)
        if basis is None:
            return
        self.text.setText(basis.describe())
        for number, (label, kernel) in enumerate(zip(self.pictures, basis.kernels, strict=False)):
            label.setPixmap(coloured(kernel, _SIDE_PX) if number == 0 else signed(kernel, _SIDE_PX))
            label.setToolTip("The mean PSF" if number == 0 else f"Eigen-PSF {number}: green more, pink less")
            label.setVisible(True)

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(caption("How this microscope's blur varies, learned from bead stacks.", dim=True))
        for widget in (self.stacks, self.form, self.build_button, self.chosen):
            layout.addWidget(widget)
        row, files = QHBoxLayout(), QHBoxLayout()
        row.setSpacing(4)
        for label in self.pictures:
            row.addWidget(label)
        row.addStretch(1)
        files.addWidget(self.save_button)
        files.addWidget(self.load_button)
        layout.addLayout(row)
        layout.addWidget(self.text)
        layout.addLayout(files)
        layout.addWidget(self.find_button)

    def _ask_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save the PSF basis", "psf-basis.npz", _FILTER)
        if path:
            self._attempt(lambda: self.save(path))

    def _ask_load(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Load a PSF basis", "", _FILTER)
        if path:
            self._attempt(lambda: self.load(path))


def signed(kernel: NDArray[np.float32], side_px: int) -> QPixmap:
    """Return a kernel of both signs as a square picture: green above zero, pink below."""
    from napari.utils.colormaps import ensure_colormap

    place = kernel / (2 * max(float(np.abs(kernel).max()), 1e-12)) + 0.5
    colours = ensure_colormap("PiYG").map(place.ravel()).reshape(*kernel.shape, 4)
    pixels = np.ascontiguousarray(np.round(255 * colours).astype(np.uint8))
    height, width = kernel.shape
    image = QImage(pixels.data, width, height, 4 * width, QImage.Format.Format_RGBA8888)
    return QPixmap.fromImage(image).scaled(
        side_px, side_px, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.FastTransformation
    )
