"""The PSF at a spot, small, with its parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QHBoxLayout, QLabel, QWidget

from napari_deblur.ui.psf_overlays import split_unit
from napari_deblur.ui.qt import caption

if TYPE_CHECKING:
    from napari_deblur.optics.psf_map import PsfMap

_SIDE_PX = 116
_HINT = "Click the image to see its PSF there."


def coloured(psf: NDArray[np.float32], side_px: int = _SIDE_PX) -> QPixmap:
    """Return a PSF as a square picture, square-root stretched."""
    from napari.utils.colormaps import ensure_colormap

    stretched = np.sqrt(np.clip(psf / max(float(psf.max()), 1e-12), 0, 1))
    colours = ensure_colormap("inferno").map(stretched.ravel()).reshape(*psf.shape, 4)
    pixels = np.ascontiguousarray(np.round(255 * colours).astype(np.uint8))
    height, width = psf.shape
    image = QImage(pixels.data, width, height, 4 * width, QImage.Format.Format_RGBA8888)
    # fromImage copies, so that the picture outlives the array.
    return QPixmap.fromImage(image).scaled(
        side_px, side_px, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.FastTransformation
    )


class PsfView(QWidget):
    """Picture of one PSF beside its parameters and confidence."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.picture = QLabel()
        self.picture.setFixedSize(_SIDE_PX, _SIDE_PX)
        self.text = caption(_HINT)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.picture)
        layout.addWidget(self.text, 1)
        self.clear()

    def clear(self) -> None:
        """Show nothing but the hint."""
        self.picture.clear()
        self.picture.setVisible(False)
        self.text.setText(_HINT)

    def show_at(self, psf_map: PsfMap, y: float, x: float) -> None:
        """Show the PSF at a position in pixels.

        Raises
        ------
        InvalidInputError
            If the position lies outside the image.
        """
        psf = psf_map.psf_at(y, x)
        row, col = psf_map.nearest(y, x)
        lines = [f"y {y:.0f}, x {x:.0f} px"]
        for index, name in enumerate(psf_map.parameter_names):
            words, unit = split_unit(name)
            value = f"{words} {float(psf_map.parameters[row, col, index]):.2f}"
            if psf_map.predicted_error is not None:
                value += f" ± {float(psf_map.predicted_error[row, col, index]):.2f}"
            lines.append(f"{value} {unit}".strip())
        lines.append(f"confidence {float(psf_map.confidence[row, col]):.0%}")
        if not psf_map.valid[row, col]:
            lines.append("too little texture here: filled from the neighbours")
        self.picture.setPixmap(coloured(psf))
        self.picture.setVisible(True)
        self.text.setText("\n".join(lines))
