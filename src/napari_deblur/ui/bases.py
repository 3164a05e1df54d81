"""The PSF bases of a viewer, which its docks share."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject

from napari_deblur.ui.qt import Signal

if TYPE_CHECKING:
    from pathlib import Path

    from napari import Viewer

    from napari_deblur.optics.psf_basis import PsfBasis


class BasisStore(QObject):
    """PSF bases by name, the newest first; with the file of each that came from one or was saved to one."""

    changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.entries: dict[str, PsfBasis] = {}
        self.paths: dict[str, Path] = {}

    def add(self, name: str, basis: PsfBasis, path: Path | None = None) -> None:
        """Keep a basis in place of an earlier one of the same name."""
        self.paths.pop(name, None)
        self.entries = {name: basis, **{other: one for other, one in self.entries.items() if other != name}}
        if path is not None:
            self.paths[name] = path
        self.changed.emit()

    def saved(self, name: str, path: Path) -> None:
        """Remember the file of a basis."""
        self.paths[name] = path


_stores: weakref.WeakKeyDictionary[Any, BasisStore] = weakref.WeakKeyDictionary()


def basis_store(viewer: Viewer) -> BasisStore:
    """Return the store of a viewer, made at the first call."""
    if viewer not in _stores:
        _stores[viewer] = BasisStore()
    return _stores[viewer]
