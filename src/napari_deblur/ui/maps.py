"""The PSF maps of a viewer, which its docks share."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject

from napari_deblur.ui.layers import LayerImage, Placement
from napari_deblur.ui.qt import Signal

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

    from napari_deblur.optics.psf_map import PsfMap


@dataclass(frozen=True, eq=False)
class MapEntry:
    """The PSF maps of one input.

    Attributes
    ----------
    name : str
        Of the input layer.
    maps : tuple of PsfMap
        One per plane that was mapped.
    planes : tuple of int or None
        Index of the one plane that was mapped; None where all were.
    leading : tuple of int
        Shape of the input's leading axes.
    placement : Placement
        Of the input.
    layer_id : object
        Of the input layer, which may be renamed.
    edited : bool
        Whether the user made it by hand from an estimate.
    path : Path or None
        File that the one map came from or was saved to, for the record.
    """

    name: str
    maps: tuple[PsfMap, ...]
    plane: tuple[int, ...] | None
    leading: tuple[int, ...]
    placement: Placement
    layer_id: Any = None
    edited: bool = False
    path: Path | None = None

    @classmethod
    def of(cls, source: LayerImage, maps: list[PsfMap], plane: tuple[int, ...] | None) -> MapEntry:
        """Bundle the maps of a layer."""
        return cls(source.name, tuple(maps), plane, source.shape[:-2], source.placement, source.layer_id)

    def same_as(self, other: MapEntry | None) -> bool:
        """Tell whether these are the very same maps, whatever became known of them since."""
        return other is not None and self.maps is other.maps

    def belongs_to(self, source: LayerImage) -> bool:
        """Tell whether these are a layer's own maps."""
        return self.layer_id == source.layer_id if self.layer_id is not None else self.name == source.name

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the image that the maps belong to."""
        return self.maps[0].image_shape

    @property
    def per_plane(self) -> bool:
        """Whether each plane has its own map."""
        return self.plane is None and len(self.maps) > 1

    def at(self, plane: tuple[int, ...]) -> PsfMap:
        """Return the map that holds for a plane."""
        if not self.per_plane:
            return self.maps[0]
        return self.maps[int(np.ravel_multi_index(plane, self.leading))]

    def each(self) -> list[tuple[str, PsfMap]]:
        """Return every map with the name of what it belongs to."""
        if not self.per_plane:
            return [(self.name, self.maps[0])]
        planes = [np.unravel_index(index, self.leading) for index in range(len(self.maps))]
        return [
            (f"{self.name} [{', '.join(str(int(at)) for at in plane)}]", one)
            for plane, one in zip(planes, self.maps, strict=True)
        ]

    def named_at(self, plane: tuple[int, ...]) -> tuple[str, PsfMap]:
        """Return the map that holds for a plane, with the name of what it belongs to."""
        index = int(np.ravel_multi_index(plane, self.leading)) if self.per_plane else 0
        return self.each()[index]

    def fits(self, source: LayerImage) -> bool:
        """Tell whether the maps can be used on a layer: same height and width."""
        return tuple(source.shape[-2:]) == tuple(self.image_shape)

    def describe(self) -> str:
        """Return a line for lists."""
        rows, cols = self.maps[0].grid_shape
        many = f", {len(self.maps)} planes" if self.per_plane else ""
        return f"{self.name} · {self.maps[0].model}, {rows} × {cols}{many}"


class MapStore(QObject):
    """PSF maps by the name of their input; the newest first."""

    changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.entries: list[MapEntry] = []

    def add(self, entry: MapEntry) -> None:
        """Keep a map in place of an earlier one of the same input."""
        same = (entry.name, entry.layer_id)
        self.entries = [entry, *(other for other in self.entries if (other.name, other.layer_id) != same)]
        self.changed.emit()

    def saved(self, entry: MapEntry, path: Path) -> None:
        """Remember the file of a map."""
        self.entries = [replace(one, path=path) if one is entry else one for one in self.entries]
        self.changed.emit()

    def usable(self, source: LayerImage) -> list[MapEntry]:
        """Return the maps that fit a layer: its own first, then those of its relatives, then the others."""
        fitting = [entry for entry in self.entries if entry.fits(source)]
        return sorted(fitting, key=lambda entry: (not entry.belongs_to(source), not related(entry, source)))

    def best_for(self, source: LayerImage) -> MapEntry | None:
        """Return the layer's own estimate, or that of a layer it was made from or together with."""
        usable = (entry for entry in self.usable(source) if not entry.edited)
        return next((entry for entry in usable if related(entry, source)), None)


def related(entry: MapEntry, source: LayerImage) -> bool:
    """Tell whether a map belongs to a layer or to one of the same origin, as their names say."""
    if entry.belongs_to(source):
        return True
    return entry.name.partition(" · ")[0] == source.name.partition(" · ")[0]


_stores: weakref.WeakKeyDictionary[Any, MapStore] = weakref.WeakKeyDictionary()


def map_store(viewer: Viewer) -> MapStore:
    """Return the store of a viewer, made at the first call."""
    if viewer not in _stores:
        _stores[viewer] = MapStore()
    return _stores[viewer]


def position_in(viewer: Viewer, layer: Layer, world: Any) -> tuple[tuple[int, ...], float, float]:
    """Return (plane, y, x) of a world position in a layer."""
    from napari_deblur.ui.region import world_to_layer

    point = world_to_layer(viewer, layer, world)
    plane = tuple(max(0, round(float(at))) for at in point[:-2])
    return plane, float(point[-2]), float(point[-1])
