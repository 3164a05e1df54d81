"""Where the PSF comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.params import parameters
from napari_deblur.optics.settings import VOLUME_FIELDS
from napari_deblur.steps.psf_map import EstimatePsfMap
from napari_deblur.ui.chosen_psf import ChosenPsf, checked, from_optics
from napari_deblur.ui.layers import LayerImage
from napari_deblur.ui.maps import MapEntry, map_store
from napari_deblur.ui.optics_panel import OpticsPanel
from napari_deblur.ui.picker import LayerPicker
from napari_deblur.ui.qt import Signal, WheelGuard, caption
from napari_deblur.ui.region import Region

if TYPE_CHECKING:
    from napari import Viewer

    from napari_deblur.optics.psf_map import PsfMap

MAP, BLIND, OPTICS, FILE, LAYER = "map", "blind", "optics", "file", "layer"
_TITLES = {
    MAP: "PSF map",
    BLIND: "Blind, from the image itself",
    OPTICS: "Optics",
    FILE: "File",
    LAYER: "Layer",
}
_FILTER = "PSF or PSF map (*.npz *.npy *.tif *.tiff *.png);;All files (*)"


def cropped(psf_map: PsfMap, region: Region) -> PsfMap:
    """Return the map of a part of the image, with the positions around it."""
    centers = psf_map.centers_px - np.asarray([region.read_top, region.read_left], dtype=np.float32)
    rows = _around(centers[:, 0, 0], region.read_height)
    cols = _around(centers[0, :, 1], region.read_width)
    error = psf_map.predicted_error
    return replace(
        psf_map,
        parameters=psf_map.parameters[rows, cols],
        centers_px=centers[rows, cols],
        valid=psf_map.valid[rows, cols],
        confidence=psf_map.confidence[rows, cols],
        predicted_error=None if error is None else error[rows, cols],
        image_shape=(region.read_height, region.read_width),
    )


def _around(positions: Any, size: int) -> slice:
    """Return the positions inside ``0 … size`` and one more on either side."""
    inside = np.flatnonzero((positions >= 0) & (positions <= size - 1))
    if not inside.size:
        nearest = int(np.abs(positions - size / 2).argmin())
        return slice(max(0, nearest - 1), nearest + 2)
    return slice(max(0, int(inside[0]) - 1), int(inside[-1]) + 2)


class PsfPanel(QWidget):
    """Choice of the PSF's source with what each source needs.

    Parameters
    ----------
    viewer : Viewer
    """

    changed = Signal()

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.store = map_store(viewer)
        self._source: LayerImage | None = None
        self._chosen_by_user = False
        self._guard = WheelGuard(self)
        self.combo = _combo(self._guard)
        for key, title in _TITLES.items():
            self.combo.addItem(title, key)
        self.map_text = caption("None yet: run the PSF map dock first.", dim=True)
        self.map = _combo(self._guard)
        self._entries: list[MapEntry] = []
        self.model = _combo(self._guard)
        info = next(info for info in parameters(EstimatePsfMap) if info.name == "model")
        self.model.addItems(list(info.choices))
        self.model.setCurrentText(str(info.default))
        self.model.setToolTip(info.help)
        self.blind_optics = OpticsPanel("Use the microscope's optics")
        self.optics = OpticsPanel(volumes=True)
        self.path = QLineEdit()
        self.path.setPlaceholderText("PSF or PSF map")
        self.browse = QPushButton("…")
        self.browse.setFixedWidth(32)
        self.browse.clicked.connect(self._ask_file)
        self.layer = LayerPicker(viewer)
        self._pages = self._build_pages()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(QLabel("<b>PSF</b>"))
        layout.addWidget(self.combo)
        for page in self._pages.values():
            layout.addWidget(page)
        self.combo.activated.connect(self._user_chose)
        self.combo.currentIndexChanged.connect(self._show_page)
        self.store.changed.connect(self._update)
        self._update()

    @property
    def current(self) -> str:
        """Which source is chosen."""
        return str(self.combo.currentData())

    def choose(self, key: str) -> None:
        """Choose a source and keep to it."""
        self.combo.setCurrentIndex(self.combo.findData(key))
        self._chosen_by_user = True

    def set_source(self, source: LayerImage | None, metadata: Mapping[Any, Any] | None = None) -> None:
        """Take in another input layer, and what its metadata says of the optics."""
        self._source = source
        if source is not None:
            for panel in (self.optics, self.blind_optics):
                panel.fill(source.pixel_size_um, source.z_step_um, metadata)
        self._update()

    def set_volumes(self, on: bool) -> None:
        """Ask for what a PSF in 3D needs, or not."""
        self.optics.form.show_rows(VOLUME_FIELDS, on)

    def entry(self) -> MapEntry | None:
        """Return the PSF map that is chosen for the input."""
        index = self.map.currentIndex()
        return self._entries[index] if 0 <= index < len(self._entries) else None

    def value(self, region: Region | None, plane: tuple[int, ...], *, volumes: bool = False) -> ChosenPsf:
        """Read the panel.

        Parameters
        ----------
        region : Region or None
            The part that a preview takes.
        plane : tuple of int
            The plane shown, for maps that differ from plane to plane.
        volumes : bool
            Whether the PSF may have a z axis.

        Raises
        ------
        InvalidInputError
            If what the source needs is missing.
        """
        if self.current == MAP:
            return self._from_map(region, plane)
        if self.current == BLIND:
            model = self.model.currentText()
            return ChosenPsf(lambda: model, self.blind_optics.value())
        if self.current == OPTICS:
            return from_optics(self.optics.value(), volumes=volumes)
        if self.current == FILE:
            return self._from_file(region, volumes=volumes)
        return self._from_layer(volumes=volumes)

    def release(self) -> None:
        """Let go of the viewer."""
        self.store.changed.disconnect(self._update)
        self.layer.release()

    def _from_map(self, region: Region | None, plane: tuple[int, ...]) -> ChosenPsf:
        entry = self.entry()
        if entry is None:
            raise InvalidInputError("PSF map", "must exist: run the PSF map dock or choose 'Blind'", "none")
        if region is not None:
            part = cropped(entry.at(plane), region)
            return ChosenPsf(lambda: part)
        return ChosenPsf(lambda: list(entry.maps) if entry.per_plane else entry.maps[0])

    def _from_file(self, region: Region | None, *, volumes: bool) -> ChosenPsf:
        text = self.path.text().strip()
        if not text:
            raise InvalidInputError("PSF file", "must be chosen", "nothing")
        path = Path(text).expanduser()

        def load() -> Any:
            if path.suffix.lower() == ".npz":
                from napari_deblur.optics.psf_map import PsfMap

                whole = PsfMap.load(path)
                return whole if region is None else cropped(whole, region)
            from napari_deblur.io.psf import read_measured_psf

            return checked(read_measured_psf(path), volumes=volumes)

        return ChosenPsf(load, path=path.resolve())

    def _from_layer(self, *, volumes: bool) -> ChosenPsf:
        layer = self.layer.layer()
        if layer is None:
            raise InvalidInputError("PSF layer", "must be chosen: open a PSF image first", "no image layer")
        source = LayerImage.of(layer)
        if self._source is not None and layer.name == self._source.name:
            raise InvalidInputError("PSF layer", "must be another layer than the image", layer.name)
        return ChosenPsf(lambda: checked(source.load_psf(), volumes=volumes))

    def _build_pages(self) -> dict[str, QWidget]:
        pages = {key: QWidget() for key in _TITLES}
        contents: dict[str, list[QWidget]] = {
            MAP: [self.map, self.map_text],
            BLIND: [self.model, self.blind_optics],
            OPTICS: [self.optics],
            LAYER: [self.layer],
        }
        for key, page in pages.items():
            layout = QHBoxLayout(page) if key == FILE else QVBoxLayout(page)
            layout.setContentsMargins(0, 0, 0, 0)
            for widget in contents.get(key, [self.path, self.browse]):
                layout.addWidget(widget)
        return pages

    def _update(self) -> None:
        source = self._source
        self._entries = self.store.usable(source) if source is not None else []
        self.map.clear()
        self.map.addItems([entry.describe() for entry in self._entries])
        self.map.setVisible(bool(self._entries))
        self.map_text.setVisible(not self._entries)
        if not self._chosen_by_user:
            own = source is not None and self.store.best_for(source) is not None
            self.combo.setCurrentIndex(self.combo.findData(MAP if own else BLIND))
        self._show_page()

    def _user_chose(self, _index: int = 0) -> None:
        self._chosen_by_user = True

    def _show_page(self, _index: int = 0) -> None:
        for key, page in self._pages.items():
            page.setVisible(key == self.current)
        self.changed.emit()

    def _ask_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Choose a PSF", "", _FILTER)
        if path:
            self.path.setText(path)


def _combo(guard: WheelGuard) -> QComboBox:
    combo = QComboBox()
    combo.setMinimumContentsLength(12)
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    guard.guard(combo)
    return combo
