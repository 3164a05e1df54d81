"""One layer alone in 3D, and the window as it was afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ref

from napari_deblur.ui.snapshot import CAMERA, Snapshot

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer


class AloneIn3D:
    """Shows a layer by itself in 3D, and puts back what it changed; keeps no layer from being deleted.

    Parameters
    ----------
    viewer : Viewer
    """

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer
        self._layer: ref[Layer] | None = None
        self._before = Snapshot()

    @property
    def layer(self) -> Layer | None:
        """The layer that is shown alone, if any."""
        return self._layer() if self._layer is not None else None

    def show(self, layer: Layer) -> None:
        """Hide the other layers and show this one in 3D."""
        self.restore()
        self._layer = ref(layer)
        for other in self.viewer.layers:
            self._before.keep_layer(other, "visible")
            other.visible = other is layer
        # Put back last first: another number of dimensions moves the camera.
        self._before.keep(self.viewer.scene.camera, *CAMERA)
        self._before.keep(self.viewer.dims, "ndisplay")
        self.viewer.dims.ndisplay = 3
        self.viewer.fit_to_view()

    def restore(self) -> None:
        """Show what was shown before, as far as it is still there; does nothing where nothing was changed."""
        self._layer = None
        self._before.put_back()
