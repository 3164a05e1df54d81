"""Choice of a layer that keeps up with the layer list."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QComboBox, QWidget

from napari_deblur.ui.layers import METADATA_KEY
from napari_deblur.ui.qt import Signal, WheelGuard, alive

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer


def is_input(layer: Layer) -> bool:
    """Tell whether a layer can be an input: an image, and none of our overlays and previews."""
    if type(layer).__name__ != "Image":
        return False
    about = layer.metadata.get(METADATA_KEY)
    return not isinstance(about, dict) or about.get("role", "result") == "result"


class LayerPicker(QComboBox):
    """Choice among the viewer's image layers.

    Takes the active layer at first and whenever the chosen one goes away; else keeps the choice.

    Parameters
    ----------
    viewer : Viewer
    accepts : callable, optional
        Which layers to list.
    """

    picked = Signal()

    def __init__(
        self, viewer: Viewer, accepts: Callable[[Any], bool] = is_input, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._viewer: Viewer | None = viewer
        self._accepts = accepts
        self._layers: list[Layer] = []
        self._chosen: Layer | None = None
        self.setMinimumContentsLength(12)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self._guard = WheelGuard(self)
        self._guard.guard(self)
        self._events = viewer.layers.events
        for emitter in (self._events.inserted, self._events.removed, self._events.renamed):
            emitter.connect(self._refresh)
        self.currentIndexChanged.connect(self._index_changed)
        self._refresh()

    def layer(self) -> Layer | None:
        """Return the chosen layer, or None where there is none to choose."""
        return self._chosen

    def choose(self, layer: Layer) -> None:
        """Choose a layer of the list."""
        self.setCurrentIndex(next(i for i, listed in enumerate(self._layers) if listed is layer))

    def release(self) -> None:
        """Let go of the viewer and its layers."""
        if self._viewer is not None:
            for emitter in (self._events.inserted, self._events.removed, self._events.renamed):
                emitter.disconnect(self._refresh)
        self._viewer, self._chosen, self._layers = None, None, []

    def _refresh(self, _event: Any = None) -> None:
        if self._viewer is None or not alive(self):
            return
        self._layers = [layer for layer in self._viewer.layers if self._accepts(layer)]
        chosen = self._chosen if any(layer is self._chosen for layer in self._layers) else self._preferred()
        blocked = self.blockSignals(True)
        self.clear()
        for layer in self._layers:
            self.addItem(layer.name)
        if chosen is not None:
            self.setCurrentIndex(next(i for i, layer in enumerate(self._layers) if layer is chosen))
        self.blockSignals(blocked)
        self._set(chosen)

    def _preferred(self) -> Layer | None:
        assert self._viewer is not None
        active = self._viewer.layers.selection.active
        if any(layer is active for layer in self._layers):
            return active
        return self._layers[-1] if self._layers else None

    def _index_changed(self, index: int) -> None:
        self._set(self._layers[index] if 0 <= index < len(self._layers) else None)

    def _set(self, layer: Layer | None) -> None:
        self.setToolTip(layer.name if layer is not None else "")
        if layer is not self._chosen:
            self._chosen = layer
            self.picked.emit()
