"""One parameter's editor: exact values in, the same values out."""

from __future__ import annotations

import math
from typing import Any

from magicgui.widgets import create_widget
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QHBoxLayout, QLabel, QSizePolicy, QWidget

from napari_deblur.core.params import ParamInfo
from napari_deblur.ui.qt import Signal, WheelGuard, caption

_UNBOUNDED = 1e9
_UNBOUNDED_INT = 2**53
_MOST_DECIMALS = 9
_NARROWEST_PX = 70
_ENTER = "enter a value"


class Missing:
    """Stands for the value of a required parameter that has not been given yet."""

    def __repr__(self) -> str:
        return "nothing"


MISSING = Missing()


def is_required(info: ParamInfo) -> bool:
    """Tell whether a parameter has no default."""
    return type(info.default).__name__ == "PydanticUndefinedType"


def _digits(value: float | None) -> int:
    """Return how many decimals a number shows in its shortest form."""
    if value is None or not math.isfinite(value) or value == int(value):
        return 0
    text = f"{abs(value):.{_MOST_DECIMALS}f}".rstrip("0")
    return len(text.partition(".")[2]) or _MOST_DECIMALS


def decimals_of(info: ParamInfo) -> int:
    """Return the decimals of a float's spin box: one finer than its step, default and bounds show."""
    default = info.default if isinstance(info.default, int | float) else None
    finest = max(_digits(number) for number in (info.step, default, info.low, info.high))
    return min(finest + (1 if info.step else 2), _MOST_DECIMALS)


def _int_options(info: ParamInfo) -> dict[str, Any]:
    low = -_UNBOUNDED_INT if info.low is None else math.ceil(info.low)
    if info.low_is_open and info.low is not None and low == info.low:
        low += 1
    high = _UNBOUNDED_INT if info.high is None else math.floor(info.high)
    return {"min": low, "max": high, "step": int(info.step or 1)}


def _float_options(info: ParamInfo) -> dict[str, Any]:
    low = -_UNBOUNDED if info.low is None else info.low
    if info.low_is_open:
        low += 10.0 ** -decimals_of(info)
    high = _UNBOUNDED if info.high is None else info.high
    return {"min": low, "max": high, "step": info.step or 10.0 ** (1 - decimals_of(info))}


def _create(info: ParamInfo) -> Any:
    """Return the magicgui widget of a parameter."""
    if info.kind == "choice":
        return create_widget(annotation=str, widget_type="ComboBox", options={"choices": list(info.choices)})
    if info.kind == "bool":
        return create_widget(annotation=bool, options={"text": ""})
    if info.kind == "str":
        return create_widget(annotation=str)
    if info.kind == "int":
        return create_widget(annotation=int, value=_int_options(info)["min"], options=_int_options(info))
    options = _float_options(info)
    widget: Any = create_widget(annotation=float, value=options["min"], options=options)
    box: QDoubleSpinBox = widget.native
    # Qt rounds bounds to the decimals it has at that moment: set the decimals first, the bounds again after.
    box.setDecimals(decimals_of(info))
    box.setRange(options["min"], options["max"])
    box.setSingleStep(options["step"])
    if is_required(info):
        box.setRange(options["min"] - options["step"], options["max"])
        box.setSpecialValueText(_ENTER)
    return widget


class Field(QWidget):
    """Editor of one parameter.

    Parameters
    ----------
    info : ParamInfo
    parent : QWidget, optional

    Notes
    -----
    A spin box rounds to its decimals and clamps to its bounds. The field keeps the value that was set beside
    what the box made of it, and returns the former until the user edits the box.
    """

    changed = Signal()

    def __init__(self, info: ParamInfo, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.info = info
        self.editor = _create(info)
        self._exact: Any = None
        self._shown: Any = None
        self._given: QCheckBox | None = None
        self._automatic: QLabel | None = None
        self._guard = WheelGuard(self)
        self._lay_out()
        self.set(info.default)
        self.editor.changed.connect(self._edited)

    def _lay_out(self) -> None:
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        native: QWidget = self.editor.native
        if self.info.optional:
            self._given = QCheckBox()
            self._given.setToolTip("Untick to leave this to the method")
            self._given.toggled.connect(self._toggled)
            row.addWidget(self._given)
            self._automatic = caption("automatic", dim=True)
            row.addWidget(self._automatic, 1)
        if self.info.unit and isinstance(native, QDoubleSpinBox):
            native.setSuffix(f" {self.info.unit}")
        if self.info.kind != "bool":
            native.setMinimumWidth(_NARROWEST_PX)
            native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
            self._guard.guard(native)
        native.setToolTip(self.info.help)
        row.addWidget(native, 1)

    @property
    def title(self) -> str:
        """The parameter's title, with its unit where the editor does not show it."""
        shown = self.info.unit is None or isinstance(self.editor.native, QDoubleSpinBox)
        return self.info.title if shown else f"{self.info.title} ({self.info.unit})"

    def value(self) -> Any:
        """Return the parameter's value; `MISSING` where it is required and was not given."""
        if self._given is not None and not self._given.isChecked():
            return None
        now = self.editor.value
        if self.info.kind == "float" and is_required(self.info) and now <= self.editor.min:
            return MISSING
        if self._exact is not None and now == self._shown:
            return self._exact
        return now

    def set(self, value: Any) -> None:
        """Show a value and keep it exactly."""
        before = self.value()
        was_blocked = self.blockSignals(True)
        try:
            self._set(value)
        finally:
            self.blockSignals(was_blocked)
        if self.value() != before:
            self.changed.emit()

    def _set(self, value: Any) -> None:
        missing = value is None or value is MISSING or type(value).__name__ == "PydanticUndefinedType"
        if self._given is not None:
            self._given.setChecked(not missing)
            self._show_given(not missing)
        if missing:
            self._exact = None
            if is_required(self.info) and self.info.kind == "float":
                self.editor.value = self.editor.min
            return
        shown = value
        if self.info.kind in ("int", "float"):
            shown = min(max(value, self.editor.min), self.editor.max)
        self.editor.value = shown
        self._exact, self._shown = value, self.editor.value

    def _edited(self, _value: Any = None) -> None:
        self.changed.emit()

    def _toggled(self, on: bool) -> None:
        self._show_given(on)
        self.changed.emit()

    def _show_given(self, on: bool) -> None:
        """Say 'automatic' in place of a value that does not count."""
        self.editor.enabled = on
        self.editor.native.setVisible(on)
        if self._automatic is not None:
            self._automatic.setVisible(not on)
