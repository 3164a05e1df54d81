"""One layer alone in 3D, and the window as it was afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

_CAMERA = ("center", "zoom", "angles")


class AloneIn3D:
    """Shows a layer by itself in 3D, and puts back what it changed; keeps no layer from being deleted.

    Parameters
    ----------
    viewer : Viewer
    """

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer
        self._layer: ref[Layer] | None = None
        self._visible: WeakKeyDictionary[Layer, bool] = WeakKeyDictionary()
        self._camera: dict[str, Any] = {}
        self._ndisplay = 2

    @property
    def layer(self) -> Layer | None:
        """The layer that is shown alone, if any."""
        return self._layer() if self._layer is not None else None

    def show(self, layer: Layer) -> None:
        """Hide the other layers and show this one in 3D."""
        self.restore()
        camera = self.viewer.scene.camera
        self._layer, self._ndisplay = ref(layer), self.viewer.dims.ndisplay
        self._camera = {name: getattr(camera, name) for name in _CAMERA}
        for other in self.viewer.layers:
            self._visible[other] = other.visible
            other.visible = other is layer
        self.viewer.dims.ndisplay = 3
        self.viewer.fit_to_view()

    def restore(self) -> None:
        """Show what was shown before, as far as it is still there; does nothing where nothing was changed."""
        if self._layer is None:
            return
        self._layer = None
        self.viewer.dims.ndisplay = self._ndisplay
        for name, value in self._camera.items():
            setattr(self.viewer.scene.camera, name, value)
        for layer, visible in list(self._visible.items()):
            layer.visible = visible
        self._visible.clear()
