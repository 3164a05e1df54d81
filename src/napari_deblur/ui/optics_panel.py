"""Optional optical settings, filled from the layer as far as it knows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from napari_deblur.optics.settings import VOLUME_FIELDS, Optics
from napari_deblur.ui.forms import Form
from napari_deblur.ui.layers import METADATA_KEY
from napari_deblur.ui.qt import Signal

_SQUARE = 0.01
# Names under which files and readers give what we ask for, in lower case without signs between words.
_NAMES = {
    "na": ("na", "lensna", "nominalna", "numericalaperture", "objectivena"),
    "wavelength_um": ("emissionwavelength", "emissionwavelengthnm", "emwavelength", "wavelengthum"),
    "refractive_index": ("refractiveindex", "immersionindex", "mediumrefractiveindex"),
}
_SHORTEST_IN_NM = 100
_DEEPEST = 6


def known_optics(metadata: Mapping[Any, Any]) -> dict[str, float]:
    """Return what a layer's metadata says of NA, wavelength and index, wherever it says so.

    Parameters
    ----------
    metadata : mapping
        Nested to any reader's liking; wavelengths of 100 and more are in nm.
    """
    own = metadata.get(METADATA_KEY)
    found: dict[str, float] = {}
    for place in (own, metadata):
        for name, words in _NAMES.items():
            value = _search(place, words, _DEEPEST)
            if value is not None and name not in found:
                nanometres = name == "wavelength_um" and value >= _SHORTEST_IN_NM
                found[name] = value / 1000 if nanometres else value
    return found


def _search(place: Any, words: tuple[str, ...], depth: int) -> float | None:
    if isinstance(place, Mapping):
        for key, value in place.items():
            plain = str(key).lower().replace("_", "").replace(" ", "").replace("@", "")
            if plain in words and isinstance(value, int | float | str):
                try:
                    number = float(value)
                except ValueError:
                    continue
                if number > 0:
                    return number
        inner = list(place.values())
    else:
        inner = list(place) if isinstance(place, list | tuple) else []
    if depth == 0:
        return None
    return next((hit for one in inner if (hit := _search(one, words, depth - 1)) is not None), None)


class OpticsPanel(QWidget):
    """Form of `Optics` behind a tick.

    Parameters
    ----------
    text : str
        Of the tick; empty where the optics are always used.
    parent : QWidget, optional
    volumes : bool
        Whether a PSF in 3D may be made of them.
    """

    changed = Signal()

    def __init__(self, text: str = "", parent: QWidget | None = None, *, volumes: bool = False) -> None:
        super().__init__(parent)
        self.form: Form[Optics] = Form(Optics, skip=() if volumes else VOLUME_FIELDS)
        self.tick: QCheckBox | None = None
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        if text:
            self.tick = QCheckBox(text)
            self.tick.setToolTip("Without them the cut-off that the network was trained for is assumed")
            self.tick.toggled.connect(self._toggled)
            self.form.setVisible(False)
            layout.addWidget(self.tick)
        layout.addWidget(self.form)
        self.form.changed.connect(self.changed)

    def value(self) -> Optics | None:
        """Return the optics, or None where they are not to be used.

        Raises
        ------
        InvalidInputError
            If a value is missing or breaks a rule.
        """
        if self.tick is not None and not self.tick.isChecked():
            return None
        return self.form.value()

    def fill(
        self,
        pixel_size_um: tuple[float, float] | None,
        z_step_um: float | None = None,
        metadata: Mapping[Any, Any] | None = None,
    ) -> None:
        """Take what a layer knows: sizes where it has units, NA, wavelength and index from its metadata.

        Parameters
        ----------
        pixel_size_um : tuple of float or None
            Along y and x; taken if they agree.
        z_step_um : float, optional
        metadata : mapping, optional
            Of the layer.
        """
        known: dict[str, float] = known_optics(metadata) if metadata else {}
        if pixel_size_um is not None:
            y, x = pixel_size_um
            if abs(y - x) <= _SQUARE * x:
                known["pixel_size_um"] = (y + x) / 2
        if z_step_um is not None and "z_step_um" in self.form.fields:
            known["z_step_um"] = z_step_um
        for name, value in known.items():
            self.form.fields[name].set(value)

    def _toggled(self, on: bool) -> None:
        self.form.setVisible(on)
        self.changed.emit()
