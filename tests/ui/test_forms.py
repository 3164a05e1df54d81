from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qtpy.QtWidgets import QLabel

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.params import parameters
from napari_deblur.methods.base import registry
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.background import RemoveBackground
from napari_deblur.steps.deblur import Deblur
from napari_deblur.steps.psf_map import EstimatePsfMap
from napari_deblur.ui.forms import Form, MethodPicker

REAL = [RemoveBackground, EstimatePsfMap, *registry().values()]
CALM = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def strategy(info):
    if info.kind == "choice":
        values = st.sampled_from(info.choices)
    elif info.kind == "bool":
        values = st.booleans()
    elif info.kind == "str":
        values = st.text(
            st.characters(min_codepoint=32, exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20
        )
    elif info.kind == "int":
        low = 0 if info.low is None else int(info.low)
        values = st.integers(low, 2**40 if info.high is None else int(info.high))
    else:
        values = st.floats(
            info.low, info.high, exclude_min=info.low_is_open, allow_nan=False, allow_infinity=False
        )
    return st.none() | values if info.optional else values


@pytest.mark.parametrize("model", REAL, ids=lambda model: model.__name__)
def test_defaults_round_trip(qtbot, model):
    form = Form(model)
    qtbot.addWidget(form)
    assert form.value() == model()


@pytest.mark.parametrize("model", REAL, ids=lambda model: model.__name__)
def test_any_value_round_trips_exactly(qtbot, model):
    form = Form(model)
    qtbot.addWidget(form)
    infos = parameters(model)

    @CALM
    @given(st.fixed_dictionaries({info.name: strategy(info) for info in infos}))
    def check(values):
        wanted = model(**values)
        form.set(wanted)
        assert form.value() == wanted

    check()


def test_every_kind_round_trips_exactly(qtbot, example):
    form = Form(example)
    qtbot.addWidget(form)

    @CALM
    @given(st.fixed_dictionaries({info.name: strategy(info) for info in parameters(example)}))
    def check(values):
        form.set(example(**values))
        assert form.value() == example(**values)

    check()


def test_bounds_step_unit_and_help_come_from_the_declaration(qtbot, example):
    form = Form(example)
    qtbot.addWidget(form)
    weight = form.fields["weight"].editor
    assert (weight.min, weight.max, weight.step) == (0, 0.1, 0.001)
    assert weight.native.value() == 0.002
    assert form.fields["count"].editor.max == 2000
    assert form.fields["tiny"].editor.min > 0
    assert form.fields["tiny"].value() == 1e-4
    assert form.fields["width_px"].editor.native.suffix() == " px"
    assert form.fields["mode"].editor.native.toolTip() == "Which."
    labels = {label.text() for label in form.findChildren(QLabel)}
    assert {"Count", "Weight", "Width"} <= labels


def test_an_edit_after_set_counts(qtbot, example):
    form = Form(example)
    qtbot.addWidget(form)
    form.set(example(weight=0.0123456789))
    assert form.value().weight == 0.0123456789
    with qtbot.waitSignal(form.changed):
        form.fields["weight"].editor.value = 0.05
    assert form.value().weight == 0.05
    form.reset()
    assert form.value() == example()


def test_optional_values(qtbot, example):
    form = Form(example)
    qtbot.addWidget(form)
    field = form.fields["tile_px"]
    assert form.value().tile_px is None
    assert not field.editor.enabled
    field._given.setChecked(True)
    assert form.value().tile_px == 64
    field._given.setChecked(False)
    assert form.value().tile_px is None


def test_rows_without_effect_are_hidden_live(qtbot, example):
    form = Form(example)
    qtbot.addWidget(form)
    form.show()
    assert not form.fields["ratio"].isVisible()
    form.fields["mode"].editor.value = "two"
    assert form.fields["ratio"].isVisible()
    form.fields["mode"].editor.value = "one"
    assert not form.is_row_shown("ratio")


def test_advanced_parameters_are_folded(qtbot, example):
    form = Form(example)
    qtbot.addWidget(form)
    form.show()
    assert not form.advanced.isExpanded()
    assert form.advanced.isAncestorOf(form.fields["tile_px"])
    form.advanced.expand(animate=False)
    qtbot.waitUntil(lambda: form.fields["tile_px"].height() > 10)


def test_required_values_are_asked_for(qtbot):
    form = Form(Optics)
    qtbot.addWidget(form)
    with pytest.raises(InvalidInputError, match="na is required; received nothing"):
        form.value()
    wanted = Optics(na=1.4, wavelength_um=0.52, pixel_size_um=0.065)
    form.set(wanted)
    assert form.value() == wanted
    form.fields["na"].editor.value = 1.6
    with pytest.raises(
        InvalidInputError, match=r"na must not exceed the refractive index 1\.515; received 1\.6"
    ):
        form.value()
    form.reset()
    with pytest.raises(InvalidInputError, match="required"):
        form.value()


def test_a_step_with_a_method_takes_it_beside_its_form(qtbot):
    form = Form(Deblur)
    qtbot.addWidget(form)
    method = registry()["wiener"]()
    assert form.value(method=method) == Deblur(method=method)


def test_method_picker_swaps_forms_and_keeps_their_values(qtbot, example, other):
    picker = MethodPicker({"example": example, "other": other})
    qtbot.addWidget(picker)
    picker.show()
    picker.form().fields["count"].editor.value = 7
    assert picker.value() == example(count=7)
    picker.combo.setCurrentIndex(1)
    assert "learned" in picker.combo.currentText()
    assert picker.value() == other()
    assert not picker._forms["example"].isVisible()
    picker.combo.setCurrentIndex(0)
    assert picker.value() == example(count=7)
    picker.set(other(strength=0.25))
    assert picker.current == "other"
    assert picker.value() == other(strength=0.25)
    picker.reset()
    assert picker.value() == other()


def test_every_method_has_a_form(qtbot):
    picker = MethodPicker(registry())
    qtbot.addWidget(picker)
    for index, (name, cls) in enumerate(registry().items()):
        picker.combo.setCurrentIndex(index)
        assert picker.current == name
        assert picker.value() == cls()
