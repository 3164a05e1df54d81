"""Some layers next to each other in a grid, alike in contrast, and the window as it was afterwards."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from napari_deblur.ui.snapshot import CAMERA, Snapshot, values_of

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Layer

_LINKED = ("contrast_limits", "colormap", "gamma")
_GRID = ("enabled", "stride", "shape", "spacing")
_SPACING = 0.02
# Cells are narrow, and names end in what tells them apart.
_NAME_POINTS = 8


class SideBySide:
    """Shows layers in napari's grid, which has one camera for all, and puts back what it changed.

    Parameters
    ----------
    viewer : Viewer
    """

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer
        self._shown: list[weakref.ref[Layer]] = []
        self._before = Snapshot()

    @property
    def shown(self) -> bool:
        """Whether layers stand side by side."""
        return bool(self._before)

    def show(self, layers: Sequence[Image], added: Sequence[Layer] = ()) -> None:
        """Show these layers alone, each in a cell with its name, all with the last one's look.

        Parameters
        ----------
        layers : sequence of Image
            Cells are filled row by row, in the order of the viewer's list.
        added : sequence of Layer
            Those of them that were added for the comparison, and are hidden after it.
        """
        self.restore()
        grid, camera = self.viewer.canvas.grid, self.viewer.scene.camera
        self._before.keep(grid, *_GRID)
        self._before.keep(camera, *CAMERA)
        for layer in self.viewer.layers:
            mine, new = among(layer, layers), among(layer, added)
            look = _LINKED if mine and not new else ()
            self._before.keep_layer(layer, *look, visible=layer.visible and not new)
            self._before.keep_name(layer, "visible", "font_size")
            layer.visible = layer.name_overlay.visible = mine
            layer.name_overlay.font_size = _NAME_POINTS
        for layer in layers[:-1]:
            for name, value in values_of(layers[-1], *_LINKED).items():
                setattr(layer, name, value)
        self._shown = [weakref.ref(layer) for layer in layers]
        if len(layers) > 1:
            self.viewer.layers.link_layers(layers, _LINKED)
        grid.stride, grid.shape, grid.spacing, grid.enabled = 1, (-1, -1), _SPACING, True
        self.viewer.fit_to_view(layers=[layers[-1]])

    def restore(self) -> None:
        """Show what was shown before, as far as it is still there; what was added is hidden, not removed."""
        linked = [layer for one in self._shown if (layer := one()) and among(layer, self.viewer.layers)]
        if len(linked) > 1:
            self.viewer.layers.unlink_layers(linked, _LINKED)
        self._before.put_back()
        self._shown = []


def among(layer: Layer, others: Iterable[Layer]) -> bool:
    """Return whether a layer is one of others; layers are themselves, whatever they hold."""
    return any(layer is other for other in others)
