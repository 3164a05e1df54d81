"""Optional optical settings, the pixel size filled from the layer."""

from __future__ import annotations

from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from napari_deblur.optics.settings import Optics
from napari_deblur.ui.forms import Form
from napari_deblur.ui.qt import Signal

_SQUARE = 0.01


class OpticsPanel(QWidget):
    """Form of `Optics` behind a tick.

    Parameters
    ----------
    text : str
        Of the tick; empty where the optics are always used.
    parent : QWidget, optional
    """

    changed = Signal()

    def __init__(self, text: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.form: Form[Optics] = Form(Optics)
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

    def fill(self, pixel_size_um: tuple[float, float] | None) -> None:
        """Take the pixel size of a layer, if it has one and its pixels are square."""
        if pixel_size_um is None:
            return
        y, x = pixel_size_um
        if abs(y - x) <= _SQUARE * x:
            self.form.fields["pixel_size_um"].set((y + x) / 2)

    def _toggled(self, on: bool) -> None:
        self.form.setVisible(on)
        self.changed.emit()
