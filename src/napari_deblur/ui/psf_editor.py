"""The PSF at a spot of a map with a slider for each of its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QFileDialog, QGridLayout, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget
from superqt import QLabeledDoubleSlider

from napari_deblur.core.errors import NapariDeblurError
from napari_deblur.optics.psf_family import PsfFamily
from napari_deblur.optics.wavefronts import wavefront_waves
from napari_deblur.optics.widths import fwhm_px
from napari_deblur.ui.psf_overlays import split_unit
from napari_deblur.ui.psf_view import coloured
from napari_deblur.ui.qt import WheelGuard, caption
from napari_deblur.ui.worker import show_failure

if TYPE_CHECKING:
    from napari_deblur.optics.psf_map import PsfMap

_SIDE_PX = 116
_DECIMALS = 3
# Two words below each other: the sliders need the room.
_LABEL_PX = 96
_LEAST_WAVES = 0.05


def coloured_wavefront(waves: NDArray[np.float32], side_px: int = _SIDE_PX) -> QPixmap:
    """Return a wavefront as a picture: green ahead, pink behind, nothing outside the pupil."""
    from napari.utils.colormaps import ensure_colormap

    reach = max(float(np.nanmax(np.abs(waves))), _LEAST_WAVES)
    inside = np.isfinite(waves)
    place = np.where(inside, waves / (2 * reach) + 0.5, 0.5)
    colours = ensure_colormap("PiYG").map(place.ravel()).reshape(*waves.shape, 4)
    colours[..., 3] = inside
    pixels = np.ascontiguousarray(np.round(255 * colours).astype(np.uint8))
    height, width = waves.shape
    image = QImage(pixels.data, width, height, 4 * width, QImage.Format.Format_RGBA8888)
    return QPixmap.fromImage(image).scaled(
        side_px, side_px, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
    )


class PsfEditor(QWidget):
    """Sliders over the PSF of a spot; its picture and its wavefront follow them at once.

    Parameters
    ----------
    use : callable
        Called with a map of one PSF, when the user wants to restore with it, and, where it was saved, with
        its file.
    parent : QWidget, optional
    """

    def __init__(self, use: Callable[..., Any], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._use = use
        self._map: PsfMap | None = None
        self._estimate: NDArray[np.float32] = np.zeros(0, np.float32)
        self._values: NDArray[np.float32] = self._estimate
        self._guard = WheelGuard(self)
        self.sliders: dict[str, QLabeledDoubleSlider] = {}
        self.picture, self.wavefront, self.text = QLabel(), QLabel(), caption()
        self.picture.setToolTip("The PSF (y down, x to the right), square-root stretched")
        self.wavefront.setToolTip("The wavefront over the pupil: green ahead, pink behind")
        self.reset_button, self.use_button = QPushButton("As estimated"), QPushButton("Use in Deblur")
        self.save_button = QPushButton("Save…")
        self.save_button.setToolTip("Save this PSF as a PSF map and use it: recipes need the file")
        self.reset_button.setToolTip("Go back to what was read off the image")
        self.use_button.setToolTip("Offer this PSF, for the whole image, as a PSF map in the Deblur dock")
        self.reset_button.clicked.connect(lambda: self._show(self._estimate))
        self.use_button.clicked.connect(self._offer)
        self.save_button.clicked.connect(self._ask_save)
        self._rows = QGridLayout()
        self._rows.setContentsMargins(0, 0, 0, 0)
        self._rows.setColumnStretch(1, 1)
        self._lay_out()

    @property
    def values(self) -> dict[str, float]:
        """The parameters as the sliders stand."""
        names = self._map.parameter_names if self._map is not None else ()
        return dict(zip(names, map(float, self._values), strict=True))

    def show_at(self, psf_map: PsfMap, row: int, col: int) -> None:
        """Take the PSF of one position of a map."""
        if self._map is None or self._map.model != psf_map.model:
            self._build_rows(psf_map.psf_family)
        self._map = psf_map
        self._estimate = psf_map.parameters[row, col].copy()
        self._show(self._estimate)

    def edited(self) -> PsfMap:
        """Return a map of the one PSF that the sliders give, for the whole image."""
        assert self._map is not None
        height, width = self._map.image_shape
        return replace(
            self._map,
            parameters=self._values.reshape(1, 1, -1).copy(),
            centers_px=np.array([[[(height - 1) / 2, (width - 1) / 2]]], np.float32),
            valid=np.ones((1, 1), bool),
            confidence=np.ones((1, 1), np.float32),
            predicted_error=None,
            signed_defocus_waves=None,
            record={**self._map.record, "edited": self.values},
        )

    def _lay_out(self) -> None:
        pictures, buttons = QHBoxLayout(), QHBoxLayout()
        pictures.addWidget(self.picture)
        pictures.addWidget(self.wavefront)
        pictures.addStretch(1)
        buttons.addWidget(self.reset_button)
        buttons.addWidget(self.use_button)
        buttons.addWidget(self.save_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(pictures)
        layout.addLayout(self._rows)
        layout.addWidget(self.text)
        layout.addLayout(buttons)

    def _build_rows(self, chosen: PsfFamily) -> None:
        while (item := self._rows.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.setParent(None)
                widget.deleteLater()
        self.sliders = {}
        for index, (name, (low, high)) in enumerate(chosen.parameter_ranges.items()):
            words, unit = split_unit(name)
            slider = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
            slider.setDecimals(_DECIMALS)
            slider.setRange(low, high)
            slider.setSingleStep((high - low) / 100)  # type: ignore[arg-type] # typed as if whole
            slider.setToolTip(f"{low:g} to {high:g} {unit}: the range that networks know")
            self._guard.guard(slider)
            slider.valueChanged.connect(lambda value, at=index: self._moved(at, float(value)))
            label = QLabel(words)
            label.setWordWrap(True)
            label.setMaximumWidth(_LABEL_PX)
            self._rows.addWidget(label, index, 0)
            self._rows.addWidget(slider, index, 1)
            self.sliders[name] = slider

    def _show(self, values: NDArray[np.float32]) -> None:
        """Set the sliders; the values stay as exact as they came."""
        for slider, value in zip(self.sliders.values(), values, strict=True):
            was_blocked = slider.blockSignals(True)
            slider.setValue(float(value))
            slider.blockSignals(was_blocked)
        self._values = values.copy()
        self._draw()

    def _moved(self, index: int, value: float) -> None:
        self._values[index] = value
        self._draw()

    def _draw(self) -> None:
        """Render the PSF anew."""
        import torch

        if self._map is None:
            return
        chosen = self._map.psf_family
        size = self._map.kernel_size_px or None
        values = torch.from_numpy(self._values)
        psf: NDArray[np.float32] = chosen.kernels(values, size, self._map.cutoff_cycles_per_px).numpy()
        self.picture.setPixmap(coloured(psf))
        waves = wavefront_waves(chosen.id, self._values.tolist()) if chosen.needs_cutoff else None
        self.wavefront.setVisible(waves is not None)
        lines = []
        if waves is not None:
            self.wavefront.setPixmap(coloured_wavefront(waves))
            lines.append(f"Wavefront {math.sqrt(float(np.nanmean(waves**2))):.3f} waves RMS")
        height, width = fwhm_px(psf)
        lines.append(f"FWHM {height:.3g} × {width:.3g} px (y, x)")
        if not np.array_equal(self._values, self._estimate):
            lines.append("edited")
        self.text.setText("; ".join(lines))

    def _offer(self) -> None:
        if self._map is not None:
            self._use(self.edited())

    def save(self, path: str | Path) -> None:
        """Write the PSF as a map of one position, replacing a file that the dialog asked about, and offer it.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        edited = self.edited()
        self._use(edited, edited.save(Path(path).with_suffix(".npz"), overwrite=True).resolve())

    def _ask_save(self) -> None:
        title, kind = "Save the edited PSF", "PSF map (*.npz)"
        path, _ = QFileDialog.getSaveFileName(self, title, "edited-psf.npz", kind)
        if path and self._map is not None:
            try:
                self.save(path)
            except NapariDeblurError as error:
                show_failure(error)
