"""Two PSF maps against each other: difference overlays, and the difference in numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QComboBox, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.steps.map_difference import MapDifference, subtract
from napari_deblur.ui.psf_overlays import add_difference, split_unit
from napari_deblur.ui.qt import WheelGuard, caption, collapsible

if TYPE_CHECKING:
    from napari import Viewer

    from napari_deblur.optics.psf_map import PsfMap
    from napari_deblur.ui.maps import MapEntry, MapStore

_HINT = "Maps of other channels, planes or layers of the same size appear here."
_AGREE = 1.5


class MapComparison(QWidget):
    """Offers the other maps of the viewer and shows the difference to the one in view.

    Parameters
    ----------
    viewer : Viewer
    store : MapStore
    shown : callable
        Returns the entry, the name and the map in view, or None.
    attempt : callable
        Runs an action and shows its errors.
    """

    def __init__(
        self,
        viewer: Viewer,
        store: MapStore,
        shown: Callable[[], tuple[MapEntry, str, PsfMap] | None],
        attempt: Callable[[Callable[[], object]], object],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.viewer, self.store, self._shown = viewer, store, shown
        self._others: list[tuple[str, PsfMap]] = []
        self.others = QComboBox()
        self.others.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self._guard = WheelGuard(self)
        self._guard.guard(self.others)
        self.button = QPushButton("Show difference")
        self.button.setToolTip("The map in view minus the one chosen here, as overlays and in numbers")
        self.button.clicked.connect(lambda _checked: attempt(self.show_difference))
        self.text = caption(_HINT)
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(0, 0, 0, 0)
        row = QHBoxLayout()
        row.addWidget(self.others, 1)
        row.addWidget(self.button)
        column.addLayout(row)
        column.addWidget(self.text)
        self.section = collapsible("Compare with another map")
        self.section.addWidget(inside)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.section)
        self.refresh()

    def refresh(self) -> None:
        """Offer every map but the one in view."""
        shown = self._shown()
        before = self.others.currentText()
        known = [pair for entry in self.store.entries for pair in entry.each()]
        # Among the planes of a stack the one in view changes with the sliders, so all are offered.
        alone = shown is not None and not shown[0].per_plane
        self._others = [
            (name, one) for name, one in known if shown is None or not (alone and one is shown[2])
        ]
        self.others.clear()
        self.others.addItems([name for name, _ in self._others])
        if (at := self.others.findText(before)) >= 0:
            self.others.setCurrentIndex(at)
        self.button.setEnabled(shown is not None and bool(self._others))
        self.text.setText(_HINT)

    def show_difference(self) -> MapDifference:
        """Subtract the chosen map from the one in view and show the result.

        Raises
        ------
        InvalidInputError
            If there is none, or the two cannot be compared.
        """
        shown, index = self._shown(), self.others.currentIndex()
        if shown is None or not 0 <= index < len(self._others):
            raise InvalidInputError("PSF map", "must exist for two images to be compared", "fewer")
        entry, name, one = shown
        other_name, other = self._others[index]
        if other is one:
            raise InvalidInputError("other", "must be another map than the one in view", other_name)
        found = subtract(one, other)
        add_difference(self.viewer, entry.name, other_name, entry.placement, one, found)
        self.text.setText(f"{name} minus {other_name}\n{describe(found)}")
        return found


def describe(difference: MapDifference) -> str:
    """Return the numbers of a difference, a line per parameter."""
    lines = []
    for one in difference.summary():
        words, unit = split_unit(one.name)
        line = f"{words}: {one.median:+.3g} ± {one.spread:.2g} {unit}".rstrip()
        if one.in_errors is not None:
            agree = "within" if one.in_errors < _AGREE else "beyond"
            line += f", {agree} the predicted errors ({one.in_errors:.1f}×)"
        lines.append(line)
    return "\n".join([*lines, f"{int(difference.valid.sum())} of {difference.valid.size} patches"])
