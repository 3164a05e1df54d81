"""PSFs for the eye: the one at a spot of a map, and any one with sections, widths and lines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QImage, QPainter, QPaintEvent, QPen, QPixmap, QPolygonF
from qtpy.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_deblur.optics.widths import fwhm_px, profiles
from napari_deblur.ui.psf_overlays import split_unit
from napari_deblur.ui.qt import caption

if TYPE_CHECKING:
    from napari_deblur.optics.psf_map import PsfMap

_SIDE_PX = 116
_HINT = "Click the image to see its PSF there."
_PLOT_HEIGHT_PX = 110
# Parameters of a smaller range are told with a third decimal.
_SMALL_RANGE = 0.35
# Of more parameters the unit is told once, so that each fits its line.
_MOST_WITH_UNITS = 3
# Colours that keep apart for the colour-blind too (Okabe & Ito 2008).
_COLOURS = {"z": "#009e73", "y": "#e69f00", "x": "#56b4e9"}


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
        units = {split_unit(name)[1] for name in psf_map.parameter_names}
        once = len(units) == 1 and len(psf_map.parameter_names) > _MOST_WITH_UNITS
        if once:
            lines.append(f"in {units.pop()}:")
        for index, name in enumerate(psf_map.parameter_names):
            words, unit = split_unit(name)
            unit = "" if once else unit
            low, high = psf_map.psf_family.parameter_ranges[name]
            digits = 2 if high - low > _SMALL_RANGE else 3
            value = f"{words} {float(psf_map.parameters[row, col, index]):.{digits}f}"
            if psf_map.predicted_error is not None:
                value += f" ± {float(psf_map.predicted_error[row, col, index]):.{digits}f}"
            lines.append(f"{value} {unit}".strip())
        height, width = fwhm_px(psf)
        lines.append(f"FWHM {_width_text(height)} × {_width_text(width)} px (y, x)")
        lines.append(f"confidence {float(psf_map.confidence[row, col]):.0%}")
        if not psf_map.valid[row, col]:
            lines.append("too little texture here: filled from the neighbours")
        self.picture.setPixmap(coloured(psf))
        self.picture.setVisible(True)
        self.text.setText("\n".join(lines))


def _width_text(width: float) -> str:
    return f"{width:.3g}" if math.isfinite(width) else "–"


def describe_widths(psf: NDArray[np.float32], voxel_size_um: tuple[float, ...] | None) -> str:
    """Return the full widths at half maximum in words: in µm where the voxels are known, else in voxels."""
    axes = "zyx"[-psf.ndim :]
    sizes, unit = (voxel_size_um, "µm") if voxel_size_um is not None else ((1.0,) * psf.ndim, "px")
    widths = [_width_text(width * size) for width, size in zip(fwhm_px(psf), sizes, strict=True)]
    return f"FWHM {' × '.join(widths)} {unit} ({', '.join(axes)})"


class ProfilePlot(QWidget):
    """Lines through the brightest voxel along each axis, over the distance from it."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFixedHeight(_PLOT_HEIGHT_PX)
        self.lines: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        self.unit = "px"

    def show_psf(self, psf: NDArray[np.float32], voxel_size_um: tuple[float, ...] | None) -> None:
        """Plot a PSF ``(y, x)`` or ``(z, y, x)``."""
        sizes = voxel_size_um or (1.0,) * psf.ndim
        self.unit = "µm" if voxel_size_um is not None else "px"
        self.lines = {
            axis: ((np.arange(len(line), dtype=np.float64) - int(line.argmax())) * size, line)
            for axis, line, size in zip("zyx"[-psf.ndim :], profiles(psf), sizes, strict=True)
        }
        self.update()

    def reach(self) -> float:
        """Return the distance at which the plot ends: where all lines have fallen below a hundredth."""
        ends = [
            float(np.abs(where[line >= 0.01]).max(initial=0)) + float(where[1] - where[0])
            for where, line in self.lines.values()
            if len(where) > 1
        ]
        return max(ends, default=1.0)

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: N802 - Qt's name
        """Draw axes, the half-maximum line and the profiles."""
        del event
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        text = self.palette().windowText().color()
        faint = QColor(text)
        faint.setAlpha(90)
        area = QRectF(4, 6, self.width() - 8, self.height() - 24)
        painter.setPen(QPen(faint, 1))
        painter.drawLine(area.bottomLeft(), area.bottomRight())
        half = area.center().y()
        painter.setPen(QPen(faint, 1, Qt.PenStyle.DashLine))
        painter.drawLine(QPointF(area.left(), half), QPointF(area.right(), half))
        reach = self.reach()
        for axis, (where, line) in self.lines.items():
            seen = np.abs(where) <= reach
            x = area.center().x() + where[seen] / reach * area.width() / 2
            y = area.bottom() - line[seen] * area.height()
            painter.setPen(QPen(QColor(_COLOURS[axis]), 1.6))
            painter.drawPolyline(QPolygonF([QPointF(float(a), float(b)) for a, b in zip(x, y, strict=True)]))
        painter.setPen(QPen(text))
        foot = QRectF(area.left(), area.bottom() + 2, area.width(), 16)
        painter.drawText(foot, int(Qt.AlignmentFlag.AlignLeft), f"−{reach:.3g}")
        painter.drawText(foot, int(Qt.AlignmentFlag.AlignRight), f"{reach:.3g} {self.unit}")
        left = area.left() + 4
        for axis in self.lines:
            painter.setPen(QPen(QColor(_COLOURS[axis]), 2))
            painter.drawText(QPointF(left, area.top() + 10), axis)
            left += 14
        painter.end()


class PsfViewer(QWidget):
    """A PSF in sections, with its widths and a plot of its lines; hidden until there is one."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.front, self.side = QLabel(), QLabel()
        self.front.setToolTip(
            "The plane of the brightest voxel (y down, x to the right), square-root stretched"
        )
        self.side.setToolTip("Seen from the side (z down, x to the right), at the scale of the voxels")
        self.text = caption()
        self.plot = ProfilePlot()
        pictures = QHBoxLayout()
        pictures.addWidget(self.front)
        pictures.addWidget(self.side)
        pictures.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(pictures)
        layout.addWidget(self.text)
        layout.addWidget(self.plot)
        self.setVisible(False)

    def show_psf(self, psf: NDArray[np.float32], voxel_size_um: tuple[float, ...] | None = None) -> None:
        """Show a PSF.

        Parameters
        ----------
        psf : ndarray, shape (y, x) or (z, y, x)
        voxel_size_um : tuple of float, optional
            One per axis of the PSF; without them widths are in voxels.
        """
        deep = psf.ndim == 3
        z, y, _ = np.unravel_index(int(psf.argmax()), psf.shape if deep else (1, *psf.shape))
        self.front.setPixmap(coloured(psf[z] if deep else psf))
        self.side.setVisible(deep)
        if deep:
            step, _, width = voxel_size_um or (1.0, 1.0, 1.0)
            # Whole repeats keep the planes' edges sharp.
            self.side.setPixmap(coloured(np.repeat(psf[:, y, :], max(round(step / width), 1), axis=0)))
        shape = " × ".join(str(size) for size in psf.shape)
        self.text.setText(f"{describe_widths(psf, voxel_size_um)}\n{shape} voxels")
        self.plot.show_psf(psf, voxel_size_um)
        self.setVisible(True)
