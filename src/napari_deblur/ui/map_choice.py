"""The list from which a PSF map is chosen; it keeps to the user's choice while others come and go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QComboBox

if TYPE_CHECKING:
    from napari_deblur.ui.layers import LayerImage
    from napari_deblur.ui.maps import MapEntry, MapStore


class MapChoice(QComboBox):
    """Maps that can be used on a layer, its own first.

    Parameters
    ----------
    store : MapStore
    """

    def __init__(self, store: MapStore) -> None:
        super().__init__()
        self._store = store
        self._source: LayerImage | None = None
        self._entries: list[MapEntry] = []
        self._picked: MapEntry | None = None
        self._offered: MapEntry | None = None
        self._was_own = False
        self._shown: tuple[MapEntry | None, Any] = None, None
        self.currentIndexChanged.connect(self._user_picked)

    def entry(self) -> MapEntry | None:
        """Return the map that is chosen."""
        index = self.currentIndex()
        return self._entries[index] if 0 <= index < len(self._entries) else None

    def list_for(self, source: LayerImage | None) -> None:
        """List what can be used on a layer."""
        self._source = source
        self._entries = self._store.usable(source) if source is not None else []
        was_blocked = self.blockSignals(True)
        self.clear()
        self.addItems([entry.describe() for entry in self._entries])
        self.setCurrentIndex(self._wanted())
        self.blockSignals(was_blocked)
        self._shown = self.entry(), None if source is None else source.layer_id

    def _wanted(self) -> int:
        """Return which map to show: what the user picked or edited last, else the layer's own."""
        newest = next(iter(self._store.entries), None)
        if newest is not None and newest.edited and not newest.same_as(self._offered):
            self._picked = self._offered = newest
            self._was_own = True
        source, listed = self._source, self._entries
        if source is None or not listed:
            return -1
        own = listed[0].belongs_to(source)
        picked = next((n for n, one in enumerate(listed) if one.same_as(self._picked)), None)
        # What was picked as one layer's own map is not to take the place of another's own.
        if picked is not None and not (own and self._was_own and not listed[picked].belongs_to(source)):
            return picked
        # Nor is a map that came for some other layer to take the place of the one that is in view.
        shown, layer_id = self._shown
        at = next((n for n, one in enumerate(listed) if one.same_as(shown)), 0)
        return at if layer_id == source.layer_id and own <= listed[at].belongs_to(source) else 0

    def _user_picked(self, _index: int) -> None:
        if (entry := self.entry()) is not None:
            self._picked, self._shown = entry, (entry, self._shown[1])
            self._was_own = self._source is not None and entry.belongs_to(self._source)
