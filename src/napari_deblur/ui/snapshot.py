"""How the window was, so that it can be put back."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari.layers import Layer

CAMERA = ("center", "zoom", "angles")


class Snapshot:
    """Attributes of the window's parts, put back last first.

    Layers are known by reference only: those that the user deletes must not fill the memory until then.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Callable[[], Any], dict[str, Any]]] = []

    def __bool__(self) -> bool:
        """Return whether anything is to be put back."""
        return bool(self._kept)

    def keep(self, part: Any, *names: str) -> None:
        """Remember attributes of a part that lives as long as the viewer."""
        self._kept.append((lambda: part, values_of(part, *names)))

    def keep_layer(self, layer: Layer, *names: str, **instead: Any) -> None:
        """Remember attributes of a layer, or what they are to be instead of what they are."""
        self._kept.append((weakref.ref(layer), values_of(layer, *names) | instead))

    def keep_name(self, layer: Layer, *names: str) -> None:
        """Remember attributes of a layer's name as it is drawn."""
        found = weakref.ref(layer)
        self._kept.append(
            (lambda: getattr(found(), "name_overlay", None), values_of(layer.name_overlay, *names))
        )

    def put_back(self) -> None:
        """Give every part that is still there what it had, and forget it."""
        kept, self._kept = self._kept, []
        for find, values in reversed(kept):
            if (part := find()) is not None:
                for name, value in values.items():
                    setattr(part, name, value)


def values_of(part: Any, *names: str) -> dict[str, Any]:
    """Return attributes by name."""
    return {name: getattr(part, name) for name in names}
