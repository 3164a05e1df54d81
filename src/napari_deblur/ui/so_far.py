"""The result so far of a run, as a layer that goes when the run ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_deblur.ui.layers import LayerImage, provenance
from napari_deblur.ui.region import Region
from napari_deblur.ui.results import contrast_limits, put_layer
from napari_deblur.ui.side_by_side import among

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

    from napari_deblur.steps.deblur_result import SoFar

_NAME = "so far"


class LiveLayer:
    """Shows the plane or volume that a run is at.

    Parameters
    ----------
    viewer : Viewer
    source : LayerImage
    region : Region or None
        The part that a preview takes.
    look : dict
        How the layer shows its pixels.
    """

    def __init__(
        self, viewer: Viewer, source: LayerImage, region: Region | None, look: dict[str, Any]
    ) -> None:
        self.viewer, self.source, self.region, self.look = viewer, source, region, look
        self._layer: Layer | None = None
        self._gone = False

    def show(self, found: SoFar) -> None:
        """Show it, unless the user has deleted the layer."""
        if self._gone or (self._layer is not None and not among(self._layer, self.viewer.layers)):
            self._gone = True
            return
        if (placed := self._placed(found)) is None:
            return
        data, offset = placed
        old = self._layer
        more = {"visible": old.visible} if old is not None else {"contrast_limits": contrast_limits(data)}
        self._layer = put_layer(
            self.viewer,
            "image",
            data,
            self.source.placement.at(offset).last(data.ndim),
            name=f"{self.source.name} · {_NAME}",
            metadata=provenance({}, role="preview", of=self.source.name, quantity=_NAME),
            **more,
            **self.look,
        )

    def _placed(self, found: SoFar) -> tuple[Any, tuple[int, ...]] | None:
        """Return the pixels with the image's axes, and where they lie; None if the axes lie otherwise."""
        ndim = found.data.ndim
        if "z" in self.source.axes[: -min(ndim, 3)] and ndim == 3:
            return None
        shape = self.source.shape if self.region is None else self.region.read_shape(self.source.shape)
        leading = shape[: len(shape) - ndim]
        at = tuple(int(i) for i in np.unravel_index(found.index, leading)) if leading else ()
        data = found.data[(None,) * len(leading)]
        offset = np.array([*at, *(0,) * ndim])
        if self.region is not None:
            data, offset = self.region.trim(data), np.array(self.region.offset_px)
        return data, tuple(int(part) for part in offset)

    def end(self) -> None:
        """Take the layer away."""
        if self._layer is not None and among(self._layer, self.viewer.layers):
            self.viewer.layers.remove(self._layer)
        self._layer = None
