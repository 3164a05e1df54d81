"""A list of methods to tick, each with its parameters folded away."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QToolButton, QVBoxLayout, QWidget

from napari_deblur.core.params import Declared
from napari_deblur.ui.forms import Form, badges
from napari_deblur.ui.qt import Signal


class MethodList(QWidget):
    """Choice of several methods.

    Parameters
    ----------
    methods : mapping of str to type of Declared
        By id.
    ticked : collection of str
        Ids of those that are chosen at first.
    parent : QWidget, optional
    """

    changed = Signal()

    def __init__(
        self,
        methods: Mapping[str, type[Declared]],
        ticked: Collection[str] = (),
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._methods = dict(methods)
        self.boxes: dict[str, QCheckBox] = {}
        self.buttons: dict[str, QToolButton] = {}
        self._forms: dict[str, Form[Declared]] = {}
        self._places: dict[str, QVBoxLayout] = {}
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        for id_, method in self._methods.items():
            layout.addLayout(self._row(id_, method, id_ in ticked))

    @property
    def chosen(self) -> dict[str, type[Declared]]:
        """The methods that are ticked, by id."""
        return {id_: self._methods[id_] for id_, box in self.boxes.items() if box.isChecked()}

    def values(self) -> dict[str, Declared]:
        """Return the ticked methods with their forms' values, by id.

        Raises
        ------
        InvalidInputError
            If a form breaks a rule.
        """
        return {id_: self.value(id_) for id_ in self.chosen}

    def value(self, id_: str) -> Declared:
        """Return one method with its form's values, ticked or not."""
        return self._forms[id_].value() if id_ in self._forms else self._methods[id_]()

    def form(self, id_: str) -> Form[Declared]:
        """Return a method's form, made when first asked for."""
        if id_ not in self._forms:
            form: Form[Declared] = Form(self._methods[id_])
            form.setContentsMargins(18, 0, 0, 6)
            form.changed.connect(self.changed)
            form.setVisible(False)
            self._forms[id_] = form
            self._places[id_].addWidget(form)
        return self._forms[id_]

    def _row(self, id_: str, method: type[Declared], ticked: bool) -> QVBoxLayout:
        box, button = QCheckBox(f"{getattr(method, 'title', id_)}{badges(method)}"), QToolButton()
        box.setChecked(ticked)
        box.setToolTip(str(getattr(method, "summary", "")))
        button.setText("…")
        button.setToolTip("Show this method's parameters")
        button.setCheckable(True)
        button.setAutoRaise(True)
        box.toggled.connect(lambda _on: self.changed.emit())
        button.toggled.connect(partial(self._fold, id_))
        line = QHBoxLayout()
        line.addWidget(box, 1)
        line.addWidget(button)
        place = QVBoxLayout()
        place.addLayout(line)
        self.boxes[id_], self.buttons[id_], self._places[id_] = box, button, place
        return place

    def _fold(self, id_: str, shown: bool) -> None:
        self.form(id_).setVisible(shown)
