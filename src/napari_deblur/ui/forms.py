"""Forms that are read off a declared model: no default, bound or title is restated here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QLabel, QToolButton, QVBoxLayout, QWidget

from napari_deblur.core.params import Declared, parameters
from napari_deblur.ui.fields import MISSING, Field
from napari_deblur.ui.qt import Signal, WheelGuard, caption, collapsible

D = TypeVar("D", bound=Declared)


def _form_layout(owner: QWidget) -> QFormLayout:
    layout = QFormLayout(owner)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    layout.setRowWrapPolicy(QFormLayout.RowWrapPolicy.DontWrapRows)
    return layout


class Form(QWidget, Generic[D]):
    """Form of a declared model.

    Parameters
    ----------
    model : type of Declared
    parent : QWidget, optional
    skip : sequence of str
        Parameters that have no meaning here and keep their defaults.
    """

    changed = Signal()

    def __init__(self, model: type[D], parent: QWidget | None = None, *, skip: Sequence[str] = ()) -> None:
        super().__init__(parent)
        self.model = model
        self.fields: dict[str, Field] = {}
        self._labels: dict[str, QLabel] = {}
        self._shown: dict[str, bool] = {}
        self._withheld: set[str] = set()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._plain = QWidget()
        self._folded = QWidget()
        plain, folded = _form_layout(self._plain), _form_layout(self._folded)
        for info in parameters(model):
            if info.name in skip:
                continue
            field = Field(info)
            label = QLabel(field.title)
            label.setToolTip(info.help)
            (folded if info.advanced else plain).addRow(label, field)
            field.changed.connect(self._field_changed)
            self.fields[info.name], self._labels[info.name] = field, label
        layout.addWidget(self._plain)
        self.advanced = collapsible("Advanced")
        self.advanced.addWidget(self._folded)
        layout.addWidget(self.advanced)
        self._refresh_rows()

    def value(self, **more: Any) -> D:
        """Return the declared model that the form shows.

        Parameters
        ----------
        **more
            Fields of the model that are no plain parameters, such as the method of a step.

        Raises
        ------
        InvalidInputError
            If a required value is missing, or values break a rule that ties several of them together.
        """
        values = {name: field.value() for name, field in self.fields.items()}
        given = {name: value for name, value in values.items() if value is not MISSING}
        return self.model(**(given | more))

    def set(self, model: D) -> None:
        """Show a model's values."""
        for name, field in self.fields.items():
            field.set(getattr(model, name))

    def show_rows(self, names: Sequence[str], shown: bool) -> None:
        """Show or hide parameters that have a meaning in one use of the form only."""
        self._withheld = self._withheld - set(names) if shown else self._withheld | set(names)
        self._refresh_rows()

    def reset(self) -> None:
        """Go back to the defaults."""
        for field in self.fields.values():
            field.set(field.info.default)

    def is_row_shown(self, name: str) -> bool:
        """Tell whether a parameter has an effect with the others as they are."""
        return self._shown[name]

    def _field_changed(self) -> None:
        self._refresh_rows()
        self.changed.emit()

    def _refresh_rows(self) -> None:
        for name, field in self.fields.items():
            shown = all(
                str(self.fields[other].value()).lower() in {str(value).lower() for value in values}
                for other, values in field.info.shown_if.items()
            )
            shown = shown and name not in self._withheld
            self._shown[name] = shown
            field.setVisible(shown)
            self._labels[name].setVisible(shown)
        folded = [self._shown[name] for name, field in self.fields.items() if field.info.advanced]
        self.advanced.setVisible(any(folded))
        self._plain.setVisible(len(folded) < len(self.fields))


class FormWithReset(QWidget, Generic[D]):
    """A form below a heading with a button that goes back to the defaults."""

    def __init__(self, model: type[D], title: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.form: Form[D] = Form(model)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(heading(title, self.form.reset))
        layout.addWidget(self.form)

    def value(self) -> D:
        """Return the declared model that the form shows."""
        return self.form.value()


def heading(title: str, reset: Any) -> QHBoxLayout:
    """Return a row with a bold title and a small reset button."""
    row = QHBoxLayout()
    label = QLabel(f"<b>{title}</b>")
    button = QToolButton()
    button.setText("Reset")
    button.setToolTip("Go back to the defaults")
    button.clicked.connect(lambda _checked: reset())
    row.addWidget(label, 1)
    row.addWidget(button)
    return row


def badges(method: Any) -> str:
    """Return what a method's name is followed by: that it is learned, that it needs no PSF."""
    words = [word for word in ("learned", "blind") if getattr(method, word, False)]
    return f" · {', '.join(words)}" if words else ""


class MethodPicker(QWidget):
    """Choice of a method with that method's form below; each form keeps its values while others are shown.

    Parameters
    ----------
    methods : mapping of str to type of Declared
        By id.
    parent : QWidget, optional
    """

    changed = Signal()

    def __init__(self, methods: Mapping[str, type[Declared]], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._methods = dict(methods)
        self._forms: dict[str, Form[Declared]] = {}
        self._guard = WheelGuard(self)
        self.combo = QComboBox()
        self.combo.setMinimumContentsLength(12)
        self.combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self._guard.guard(self.combo)
        for key, method in self._methods.items():
            self.combo.addItem(f"{getattr(method, 'title', key)}{badges(method)}", key)
        self._about = caption(dim=True)
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.addLayout(heading("Method", self.reset))
        self._layout.addWidget(self.combo)
        self._layout.addWidget(self._about)
        self.combo.currentIndexChanged.connect(self._show)
        self._show()

    @property
    def current(self) -> str:
        """Id of the chosen method."""
        return str(self.combo.currentData())

    @property
    def method_class(self) -> type[Declared]:
        """Class of the chosen method."""
        return self._methods[self.current]

    def form(self) -> Form[Declared]:
        """Return the chosen method's form."""
        key = self.current
        if key not in self._forms:
            form: Form[Declared] = Form(self._methods[key])
            form.changed.connect(self.changed)
            self._forms[key] = form
            self._layout.addWidget(form)
        return self._forms[key]

    def value(self) -> Declared:
        """Return the chosen method with the form's values."""
        return self.form().value()

    def set(self, method: Declared) -> None:
        """Choose a method and show its values."""
        for key, cls in self._methods.items():
            if isinstance(method, cls):
                self.combo.setCurrentIndex(self.combo.findData(key))
                self.form().set(method)
                return
        raise KeyError(type(method).__name__)

    def reset(self) -> None:
        """Go back to the chosen method's defaults."""
        self.form().reset()

    def _show(self, _index: int = 0) -> None:
        chosen = self.form()
        for form in self._forms.values():
            form.setVisible(form is chosen)
        cls = self.method_class
        text = getattr(cls, "summary", "") or (cls.__doc__ or "").strip().partition("\n")[0]
        self._about.setText(text)
        self.combo.setToolTip(str(getattr(cls, "reference", "")))
        self.changed.emit()
