"""Small Qt helpers shared by the docks."""

from __future__ import annotations

from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, QSize, Qt, Signal  # type: ignore[attr-defined] # Signal: qtpy's alias
from qtpy.QtWidgets import QLabel, QSizePolicy, QWidget
from superqt import QCollapsible

__all__ = ["Signal", "WheelGuard", "alive", "caption", "collapsible"]


def alive(thing: QObject | None) -> bool:
    """Tell whether a Qt object exists and its C++ side has not been deleted."""
    return thing is not None and bool(isalive(thing))  # type: ignore[no-untyped-call]


class WheelGuard(QObject):
    """Let the wheel scroll the dock instead of changing a value that the mouse merely passes over."""

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802 - Qt's name
        """Swallow wheel events of widgets without the focus."""
        if (
            event is not None
            and event.type() == QEvent.Type.Wheel
            and isinstance(watched, QWidget)
            and not watched.hasFocus()
        ):
            event.ignore()
            return True
        return False

    def guard(self, widget: QWidget) -> None:
        """Apply to a widget."""
        widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        widget.installEventFilter(self)


def caption(text: str = "", *, dim: bool = False) -> QLabel:
    """Return a label that wraps instead of widening the dock."""
    label = QLabel(text)
    label.setWordWrap(True)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    if dim:
        # A disabled label is hardly readable in napari's dark theme; this grey is, in both.
        label.setStyleSheet("color: #8c8c8c")
    return label


def collapsible(title: str) -> QCollapsible:
    """Return a section that opens at once, its arrow in the colour of the text in every theme."""
    section = QCollapsible(f"▸ {title}", expandedIcon=" ", collapsedIcon=" ")
    section.setDuration(0)
    section.toggleButton().setIconSize(QSize(0, 0))
    section.toggleButton().setStyleSheet(
        "text-align: left; border: none; background: transparent; padding: 2px"
    )
    section.toggled.connect(lambda opened: section.setText(f"{'▾' if opened else '▸'} {title}"))
    return section
