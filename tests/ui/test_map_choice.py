"""The PSF map that the user chose stays chosen."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.ui.bases import basis_store
from napari_deblur.ui.layers import LayerImage
from napari_deblur.ui.maps import MapEntry, map_store
from napari_deblur.ui.psf_panel import MAP, PsfPanel


def entry_of(source, width_px=2.0):
    height, width = source.shape[-2:]
    one = PsfMap.from_parameters(
        "gaussian-1", [[[width_px]]], centers_px=[[[height / 2, width / 2]]], image_shape=(height, width)
    )
    return MapEntry.of(source, [one], ())


@pytest.fixture
def sources(viewer, picture):
    names = ("cells", "red", "green")
    return [LayerImage.of(viewer.add_image(picture, name=name)) for name in names]


@pytest.fixture
def store(viewer):
    return map_store(viewer)


@pytest.fixture
def panel(viewer, qtbot):
    panel = PsfPanel(viewer)
    qtbot.addWidget(panel)
    yield panel
    panel.release()


def pick(panel, entry):
    panel.choose(MAP)
    panel.map.setCurrentIndex(panel.map.findText(entry.describe()))
    assert panel.entry() is entry


def test_a_choice_outlasts_other_maps_and_other_layers(store, panel, sources):
    cells, red, green = sources
    own, other = entry_of(cells), entry_of(red)
    store.add(own)
    store.add(other)
    panel.set_source(cells)
    assert panel.entry() is own
    pick(panel, other)
    store.add(entry_of(green))
    assert panel.entry() is other
    store.add(entry_of(cells, 3.0))
    assert panel.entry() is other, "picked, even before the layer's own"
    panel.set_source(green)
    panel.set_source(cells)
    assert panel.entry() is other
    store.saved(other, "map.npz")
    assert panel.entry().path == "map.npz", "the same map, saved meanwhile"
    store.add(entry_of(red, 3.0))
    assert panel.entry().belongs_to(cells), "what was picked is no longer listed"


def test_a_map_in_view_does_not_give_way_to_one_of_some_other_layer(store, panel, sources):
    cells, red, green = sources
    shown = entry_of(red)
    store.add(shown)
    panel.set_source(cells)
    panel.choose(MAP)
    assert panel.entry() is shown
    store.add(entry_of(green))
    assert panel.entry() is shown
    own = entry_of(cells)
    store.add(own)
    assert panel.entry() is own


def test_one_layers_own_map_does_not_take_the_place_of_anothers(store, panel, sources):
    cells, red, _ = sources
    own, other = entry_of(cells), entry_of(red)
    store.add(own)
    store.add(other)
    panel.set_source(cells)
    pick(panel, other)
    pick(panel, own)
    panel.set_source(red)
    assert panel.entry() is other
    panel.set_source(cells)
    assert panel.entry() is own


def test_what_the_user_edited_is_chosen(store, panel, sources):
    cells, red, _ = sources
    own, other = entry_of(cells), entry_of(red)
    store.add(own)
    store.add(other)
    panel.set_source(cells)
    pick(panel, other)
    edited = replace(entry_of(cells, 1.0), name="cells · edited PSF", edited=True)
    store.add(edited)
    assert panel.entry() is edited
    pick(panel, own)
    store.add(entry_of(red, 3.0))
    assert panel.entry() is own, "it was offered once"


def test_a_field_of_a_basis_stays_chosen(viewer, panel, sources):
    bases = basis_store(viewer)
    bases.add("scope", SimpleNamespace(labels=("0", "1", "2")))
    panel.basis_field.setCurrentText("2")
    bases.add("other", SimpleNamespace(labels=("0", "1", "2")))
    assert (panel.basis.currentText(), panel.basis_field.currentText()) == ("scope", "2")
    panel.basis.setCurrentText("other")
    assert panel.basis_field.currentText() == "find in the image", "another basis has other fields"


def test_a_file_is_handed_over(store, panel, sources, tmp_path):
    cells = sources[0]
    store.add(replace(entry_of(cells), path=tmp_path / "map.npz"))
    panel.set_source(cells)
    assert panel.value(None, ()).path == tmp_path / "map.npz"
