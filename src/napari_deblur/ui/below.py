"""What lay below zero when a background was taken off a layer, which the layer itself does not show.

Layers show a foreground without negative values. The steps that come after want the noise to its lower end,
and metadata holds JSON only; so the rest is kept here while the layer lives with the pixels it came with.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from napari_deblur.core.image import FloatArray

if TYPE_CHECKING:
    from napari.layers import Layer

_kept: weakref.WeakKeyDictionary[Layer, tuple[Any, FloatArray]] = weakref.WeakKeyDictionary()


def keep_below(layer: Layer, below: FloatArray) -> None:
    """Keep what was cut off below zero from a layer's pixels, of the same shape."""
    _kept[layer] = (layer.data, below)


def below_of(layer: Layer) -> FloatArray | None:
    """Return what was cut off a layer, or None where nothing was, or it got other pixels since."""
    pixels, below = _kept.get(layer, (None, None))
    return below if pixels is not None and layer.data is pixels else None
