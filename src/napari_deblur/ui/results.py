"""Results become layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.record import Record
from napari_deblur.ui.history import history
from napari_deblur.ui.layers import METADATA_KEY, LayerImage, Placement, provenance
from napari_deblur.ui.region import Region

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

_LOOK_AT = 1_000_000
_PERCENTILES = (0.1, 99.9)


def contrast_limits(data: NDArray[Any]) -> tuple[float, float]:
    """Return limits for showing an image: robust against single bright pixels, fast on large arrays."""
    flat = data.reshape(-1)
    seen = flat[:: max(1, flat.size // _LOOK_AT)]
    seen = seen[np.isfinite(seen)]
    if not seen.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(seen, _PERCENTILES))
    if high <= low:
        low, high = float(seen.min()), float(seen.max())
    return (low, high) if high > low else (low, low + 1.0)


def look_of(layer: Layer) -> dict[str, Any]:
    """Return how a layer shows its pixels, for a result of the same kind."""
    return {"colormap": layer.colormap, "gamma": layer.gamma, "blending": layer.blending}


@dataclass(frozen=True, eq=False)
class Result:
    """One image to be added.

    Attributes
    ----------
    data : ndarray, shape (…, y, x)
        Of the input's shape, or of the region that was read.
    suffix : str
        What it is; the layer is named ``<input> · <suffix>``.
    look : dict
        Further arguments of the layer.
    limits : tuple of float or None
        Contrast limits where they are not to be found from the data.
    """

    data: NDArray[Any]
    suffix: str
    look: dict[str, Any] = field(default_factory=dict)
    limits: tuple[float, float] | None = None


def add_results(
    viewer: Viewer,
    source: LayerImage,
    region: Region | None,
    record: Record | dict[str, Any],
    results: list[Result],
    *,
    remembered: bool = True,
    called: str = "preview",
) -> list[Layer]:
    """Add results next to their input, at the very same place.

    Parameters
    ----------
    viewer : Viewer
    source : LayerImage
    region : Region or None
        Where only a part was computed: a preview, which takes the place of the last one of its kind.
    record : Record or dict
    results : list of Result
    remembered : bool
        Whether a recipe of what was run on whole layers repeats it.
    called : str
        What previews are named; those of another name do not take each other's place.
    """
    placement, role, end = source.placement, "result", ""
    if region is not None:
        placement, role, end = placement.at(region.offset_px), "preview", f" · {called}"
    elif remembered:
        history(viewer).add(record)
    added = []
    for result in results:
        data = result.data if region is None else region.trim(result.data)
        layer = put_layer(
            viewer,
            "image",
            data,
            placement.last(data.ndim),
            name=f"{source.name} · {result.suffix}{end}",
            metadata=provenance(record, role=role, of=source.name, quantity=result.suffix + end),
            contrast_limits=result.limits or contrast_limits(data),
            **result.look,
        )
        added.append(layer)
    return added


def put_layer(
    viewer: Viewer,
    kind: str,
    data: Any,
    placement: Placement,
    *,
    name: str,
    metadata: dict[str, Any],
    **look: Any,
) -> Layer:
    """Add a layer, or give the one that shows the same quantity new content.

    Removing layers takes napari long, and the user may have arranged the old one; so previews and overlays
    are updated in place. A preview that was hidden is shown again, as the user just asked for it; unless it
    is one that starts hidden. Results are always added.

    Parameters
    ----------
    viewer : Viewer
    kind : {"image", "labels", "vectors", "surface"}
    data : ndarray, or what the layer takes
    placement : Placement
    name : str
    metadata : dict
        From `provenance`, with the role, the input's name and the quantity.
    **look
        Further arguments of a new layer; of an old one only the contrast limits change.
    """
    old = _same_quantity(viewer, kind, metadata[METADATA_KEY], placement.ndim)
    if old is None:
        add = getattr(viewer, f"add_{kind}")
        return add(data, name=name, metadata=metadata, **placement.kwargs(), **look)
    old.data = data
    for attribute, value in placement.kwargs().items():
        setattr(old, attribute, value)
    old.name, old.metadata = name, metadata
    if "contrast_limits" in look:
        old.contrast_limits_range = look["contrast_limits"]
        old.contrast_limits = look["contrast_limits"]
    if metadata[METADATA_KEY]["role"] == "preview" and look.get("visible", True):
        old.visible = True
    return old


def about_of(layer: Layer) -> dict[str, Any]:
    """Return what we noted of a layer; empty for layers that are not ours."""
    found = layer.metadata.get(METADATA_KEY)
    return found if isinstance(found, dict) else {}


def _same_quantity(viewer: Viewer, kind: str, about: dict[str, Any], ndim: int) -> Layer | None:
    """Return the layer to update; one of another kind or number of axes is removed instead."""
    if about.get("role") not in ("preview", "overlay"):
        return None
    keys = ("role", "of", "quantity")
    for layer in list(viewer.layers):
        if all(about_of(layer).get(key) == about.get(key) for key in keys):
            if type(layer).__name__.lower() == kind and layer.ndim == ndim:
                return layer
            viewer.layers.remove(layer)
    return None


def remove_layers(viewer: Viewer, group: str, of: str, roles: Sequence[str], keep: Sequence[Layer]) -> None:
    """Remove the layers of a group that belong to an input, except those to keep.

    Parameters
    ----------
    viewer : Viewer
    group : str
        What the layers were made as parts of, under ``group`` in their metadata.
    of : str
        Name of the input.
    roles : sequence of {"preview", "overlay"}
    keep : sequence of Layer
    """
    for layer in list(viewer.layers):
        about = about_of(layer)
        mine = (about.get("group"), about.get("of")) == (group, of) and about.get("role") in roles
        if mine and not any(layer is other for other in keep):
            viewer.layers.remove(layer)
