"""Where the PSF comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

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
from napari_deblur.optics.psf_basis import MODEL as OF_A_BASIS
from napari_deblur.optics.psf_basis import PsfBasis
from napari_deblur.optics.settings import VOLUME_FIELDS
from napari_deblur.steps.identify import known_basis
from napari_deblur.steps.psf_map import EstimatePsfMap
from napari_deblur.ui.bases import basis_store
from napari_deblur.ui.chosen_psf import ChosenPsf, checked, from_optics
from napari_deblur.ui.layers import LayerImage
from napari_deblur.ui.map_choice import MapChoice
from napari_deblur.ui.maps import MapEntry, map_store
from napari_deblur.ui.optics_panel import OpticsPanel
from napari_deblur.ui.picker import LayerPicker
from napari_deblur.ui.psf_parts import cropped, over_region
from napari_deblur.ui.qt import Signal, WheelGuard, caption
from napari_deblur.ui.region import Region

if TYPE_CHECKING:
    from napari import Viewer


Combo = TypeVar("Combo", bound=QComboBox)
MAP, BLIND, BASIS, OPTICS, FILE, LAYER = "map", "blind", "basis", "optics", "file", "layer"
_TITLES = {
    MAP: "PSF map",
    BLIND: "Blind, from the image itself",
    BASIS: "PSF basis",
    OPTICS: "Optics",
    FILE: "File",
    LAYER: "Layer",
}
_SEARCH = "find in the image"
_FILTER = "PSF, PSF map or PSF basis (*.npz *.npy *.tif *.tiff *.png);;All files (*)"


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
        self.combo = _combo(self._guard, QComboBox())
        for key, title in _TITLES.items():
            self.combo.addItem(title, key)
        self.map_text = caption("None yet: run the PSF map dock first.", dim=True)
        self.map = _combo(self._guard, MapChoice(self.store))
        self.model = _combo(self._guard, QComboBox())
        info = next(info for info in parameters(EstimatePsfMap) if info.name == "model")
        self.model.addItems([*info.choices, OF_A_BASIS])
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
        self.bases = basis_store(viewer)
        self.basis, self.basis_field = _combo(self._guard, QComboBox()), _combo(self._guard, QComboBox())
        self.basis_field.setToolTip("Which blur of the basis the image has: searched for, or as measured")
        self._fields_of: PsfBasis | None = None
        self.basis_text = caption("None yet: build or load one in the PSF map dock.", dim=True)
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
        self.basis.currentIndexChanged.connect(self._list_fields)
        self.bases.changed.connect(self._list_bases)
        self._list_bases()
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
                panel.fill(source, metadata)
        self._update()

    def set_volumes(self, on: bool) -> None:
        """Ask for what a PSF in 3D needs, or not."""
        self.optics.form.show_rows(VOLUME_FIELDS, on)

    def entry(self) -> MapEntry | None:
        """Return the PSF map that is chosen for the input."""
        return self.map.entry()

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
        if self.current == BASIS:
            return self._from_basis(region)
        if self.current == BLIND:
            model = self.model.currentText()
            if model == OF_A_BASIS:
                return self._from_simulated(region)
            return ChosenPsf(lambda: model, self.blind_optics.value())
        if self.current == OPTICS:
            return from_optics(self.optics.value(), volumes=volumes)
        if self.current == FILE:
            return self._from_file(region, volumes=volumes)
        return self._from_layer(volumes=volumes)

    def release(self) -> None:
        """Let go of the viewer."""
        self.store.changed.disconnect(self._update)
        self.bases.changed.disconnect(self._list_bases)
        self.layer.release()

    def _from_map(self, region: Region | None, plane: tuple[int, ...]) -> ChosenPsf:
        entry = self.entry()
        if entry is None:
            raise InvalidInputError("PSF map", "must exist: run the PSF map dock or choose 'Blind'", "none")
        if region is not None:
            part = cropped(entry.at(plane), region)
            return ChosenPsf(lambda: part, path=entry.path)
        return ChosenPsf(lambda: list(entry.maps) if entry.per_plane else entry.maps[0], path=entry.path)

    def _from_file(self, region: Region | None, *, volumes: bool) -> ChosenPsf:
        text = self.path.text().strip()
        if not text:
            raise InvalidInputError("PSF file", "must be chosen", "nothing")
        path, shape = Path(text).expanduser(), self._source.shape if self._source else None

        def load() -> Any:
            if path.suffix.lower() == ".npz":
                from napari_deblur.io.psf import read_psf_archive

                found = read_psf_archive(path)
                if isinstance(found, PsfBasis):
                    return found if shape is None else over_region(found, shape, region)
                return found if region is None else cropped(found, region)
            from napari_deblur.io.psf import read_measured_psf

            return checked(read_measured_psf(path), volumes=volumes)

        return ChosenPsf(load, path=path.resolve())

    def _from_basis(self, region: Region | None) -> ChosenPsf:
        name, field = self.basis.currentText(), self.basis_field.currentText()
        if name not in self.bases.entries or self._source is None:
            raise InvalidInputError("PSF basis", "must be built or loaded in the PSF map dock", "none")
        basis, source = self.bases.entries[name], self._source

        def load() -> Any:
            found = over_region(basis, source.shape, region)
            if field == _SEARCH:
                return found
            return found.of_field(field, found.image_shape, source.pixel_size_um)

        return ChosenPsf(load, path=self.bases.paths.get(name))

    def _from_simulated(self, region: Region | None) -> ChosenPsf:
        optics, source = self.blind_optics.value(), self._source
        if source is None or region is None:
            return ChosenPsf(lambda: OF_A_BASIS, optics)
        return ChosenPsf(lambda: over_region(known_basis(OF_A_BASIS, optics), source.shape, region), optics)

    def _list_bases(self) -> None:
        name = self.basis.currentText()
        was_blocked = self.basis.blockSignals(True)
        self.basis.clear()
        self.basis.addItems(list(self.bases.entries))
        if name in self.bases.entries:
            self.basis.setCurrentText(name)
        self.basis.blockSignals(was_blocked)
        for widget in (self.basis, self.basis_field):
            widget.setVisible(bool(self.bases.entries))
        self.basis_text.setVisible(not self.bases.entries)
        self._list_fields()

    def _list_fields(self, _index: int = 0) -> None:
        basis = self.bases.entries.get(self.basis.currentText())
        field = self.basis_field.currentText() if basis is self._fields_of else _SEARCH
        self._fields_of = basis
        self.basis_field.clear()
        self.basis_field.addItems([_SEARCH, *(basis.labels if basis is not None else ())])
        self.basis_field.setCurrentText(field)

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
            BASIS: [self.basis, self.basis_field, self.basis_text],
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
        self.map.list_for(source)
        self.map.setVisible(self.map.count() > 0)
        self.map_text.setVisible(self.map.count() == 0)
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


def _combo(guard: WheelGuard, combo: Combo) -> Combo:
    combo.setMinimumContentsLength(12)
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    guard.guard(combo)
    return combo
