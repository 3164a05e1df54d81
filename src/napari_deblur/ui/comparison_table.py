"""The figures of compared methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem, QWidget

from napari_deblur.ui.qt import Signal

if TYPE_CHECKING:
    from napari_deblur.comparison import Compared

_COLUMNS = {
    "Method": "",
    "s": "Seconds that it took",
    "Flux": "How much light was lost or made up, as a share of all",
    "Rest": "What the result does not explain, in grey values (RMS); less is not better once it is noise",
    "FRC": "Resolution by Fourier ring correlation of the image with itself, in pixels; noise can flatter it",
}


class ComparisonTable(QTableWidget):
    """A row for the input and for each method; the selected row's method is the current one."""

    chosen = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(0, len(_COLUMNS), parent)
        self._ids: list[str | None] = []
        self.setHorizontalHeaderLabels(list(_COLUMNS))
        for column, text in enumerate(_COLUMNS.values()):
            if (item := self.horizontalHeaderItem(column)) is not None:
                item.setToolTip(text)
        if (rows := self.verticalHeader()) is not None:
            rows.setVisible(False)
        if (header := self.horizontalHeader()) is not None:
            header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
            header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.itemSelectionChanged.connect(self._selected)

    @property
    def current(self) -> str | None:
        """Id of the selected row's method; None for the input, or without a selection."""
        row = self.currentRow()
        return self._ids[row] if self.selectedItems() and 0 <= row < len(self._ids) else None

    def show_rows(self, found: Mapping[str, Compared]) -> None:
        """Show the input's figures and those of each method."""
        self.clearSelection()
        first = next(iter(found.values()), None)
        rows: list[tuple[str, ...]] = []
        if first is not None:
            rows.append(("input", "", "", "", _number(first.resolution_before_px)))
        rows += [_cells(one) for one in found.values()]
        self._ids = [None, *found] if found else []
        self.setRowCount(len(rows))
        for row, cells in enumerate(rows):
            for column, text in enumerate(cells):
                item = QTableWidgetItem(text)
                side = Qt.AlignmentFlag.AlignLeft if column == 0 else Qt.AlignmentFlag.AlignRight
                item.setTextAlignment(side | Qt.AlignmentFlag.AlignVCenter)
                self.setItem(row, column, item)
        self._fit()

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # noqa: N802 - Qt's name
        """Wrap the names to the new width."""
        super().resizeEvent(event)  # type: ignore[arg-type] # PySide's stub knows no None, PyQt's does
        self._fit()

    def _fit(self) -> None:
        """Be as high as the rows are."""
        self.resizeRowsToContents()
        header = self.horizontalHeader()
        height = sum(self.rowHeight(row) for row in range(self.rowCount())) + 2 * self.frameWidth()
        self.setFixedHeight(height + (header.sizeHint().height() if header is not None else 0))

    def _selected(self) -> None:
        self.chosen.emit(self.currentRow() if self.selectedItems() else -1)


def _cells(one: Compared) -> tuple[str, ...]:
    row = one.row()
    flux = row["flux_change"]
    return (
        one.label,
        f"{row['seconds']:.2g}" if row["seconds"] < 10 else f"{row['seconds']:.0f}",
        "–" if flux is None else f"{flux:+.1%}",
        _number(row["residual_rms"]),
        _number(row["resolution_after_px"]),
    )


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:.3g}"
