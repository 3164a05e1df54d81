"""What layers know of their optics, and what stays in the form when another one is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.ui.layers import METADATA_KEY, LayerImage
from napari_deblur.ui.optics_panel import OpticsPanel, known_optics

DAPI, GFP = {"Name": "DAPI", "EmissionWavelength": 450.0}, {"Name": "GFP", "EmissionWavelength": 510.0}


def ome(*channels, more=()):
    """Metadata as a reader gives it to each of the layers that it makes of one file."""
    image = {"Name": "field 3", "Pixels": {"SizeX": 64, "Channel": list(channels)}}
    return {"ome_metadata": {"OME": {"Image": [image, *more], "Instrument": {"Objective": {"LensNA": 1.2}}}}}


@pytest.fixture
def panel(qtbot):
    panel = OpticsPanel(volumes=True)
    qtbot.addWidget(panel)
    return panel


@pytest.fixture
def source(viewer):
    """Describe a layer of noise, whose pixels have sizes where a scale is given."""

    def make(scale=None, name="cells", ndim=2, **more):
        place = {} if scale is None else {"scale": scale, "units": ("um",) * ndim}
        data = np.random.default_rng(0).random((3, 8, 32, 32)[-ndim:])
        return LayerImage.of(viewer.add_image(data, name=name, **place, **more))

    return make


def values(panel):
    return {name: field.value() for name, field in panel.form.fields.items()}


def test_nothing_of_the_layer_before_stays_in_the_form(panel, source):
    before = values(panel)
    panel.fill(
        source((0.3, 0.1, 0.1), ndim=3), {"na": 0.8, "emission_wavelength": 520, "refractive_index": 1.33}
    )
    found = panel.value()
    assert (found.na, found.wavelength_um, found.refractive_index) == (0.8, 0.52, 1.33)
    assert (found.pixel_size_um, found.z_step_um) == pytest.approx((0.1, 0.3))
    panel.fill(source(name="unknown"), {})
    after = values(panel)
    assert {name: repr(value) for name, value in after.items()} == {
        name: repr(value) for name, value in before.items()
    }
    with pytest.raises(InvalidInputError, match="is required"):
        panel.value()


def test_what_the_user_typed_stays(panel, source):
    panel.fill(source((0.1, 0.1)), {"na": 0.8})
    panel.form.fields["wavelength_um"].set(0.6)
    panel.form.fields["na"].editor.value = 0.95
    panel.fill(source(name="unknown"), {})
    assert values(panel)["wavelength_um"] == 0.6
    assert values(panel)["na"] == pytest.approx(0.95)
    assert repr(values(panel)["pixel_size_um"]) == "nothing"


def test_what_a_layer_knows_counts_for_it(panel, source):
    panel.form.fields["pixel_size_um"].set(0.5)
    panel.fill(source((0.1, 0.1)))
    assert values(panel)["pixel_size_um"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DAPI", 0.45),
        ("GFP", 0.51),
        ("gfp · foreground", 0.51),
        ("field 3 - GFP", 0.51),
        ("field 3", None),
        ("GFPx", None),
        ("DAPI and GFP", None),
        ("field 3 layer 1", None),
        ("", None),
    ],
)
def test_each_channel_of_a_file_has_its_own_wavelength(name, expected):
    found = known_optics(ome(DAPI, GFP), name)
    assert found.get("wavelength_um") == expected
    assert found["na"] == 1.2


def test_one_wavelength_for_all_channels_needs_no_name():
    assert known_optics(ome(GFP, {**DAPI, "EmissionWavelength": 510}))["wavelength_um"] == 0.51


def test_a_channel_without_a_wavelength_does_not_get_that_of_another():
    metadata = ome({"Name": "transmission"}, GFP)
    assert "wavelength_um" not in known_optics(metadata, "transmission")
    assert "wavelength_um" not in known_optics(metadata, "field 3")
    assert known_optics(metadata, "GFP")["wavelength_um"] == 0.51


def test_names_that_contain_others_and_names_that_are_the_same():
    far = {"Name": "GFP far red", "EmissionWavelength": 700}
    assert known_optics(ome(GFP, far), "GFP far red")["wavelength_um"] == 0.7
    assert known_optics(ome(GFP, far), "GFP")["wavelength_um"] == 0.51
    again = {"Name": "GFP", "EmissionWavelength": 530}
    assert "wavelength_um" not in known_optics(ome(GFP, again), "GFP [1]")


def test_numbers_as_names_must_be_the_whole_name():
    metadata = ome({"Name": "0", "EmissionWavelength": 450}, {"Name": "1", "EmissionWavelength": 510})
    assert "wavelength_um" not in known_optics(metadata, "image [1]")
    assert known_optics(metadata, "1")["wavelength_um"] == 0.51


def test_several_objectives_are_no_objective():
    assert known_optics({"objectives": [{"NA": 0.8}, {"NA": 1.4}]}) == {}


def test_our_own_record_goes_before_the_file():
    metadata = {METADATA_KEY: {"optics": {"wavelength_um": 0.6}}, **ome(DAPI, GFP)}
    assert known_optics(metadata, "GFP")["wavelength_um"] == 0.6


@pytest.mark.parametrize("value", [float("inf"), float("nan"), True, None, -1, "much", [0.8]])
def test_values_that_are_none(value):
    assert known_optics({"na": value}) == {}


def test_a_layer_with_a_channel_axis_is_no_single_channel(panel, source):
    two = source((1, 1, 0.1, 0.1), name="GFP", ndim=4, axis_labels=("c", "z", "y", "x"))
    panel.fill(two, ome(DAPI, GFP))
    assert repr(values(panel)["wavelength_um"]) == "nothing"
    panel.fill(source((0.1, 0.1), name="GFP"), ome(DAPI, GFP))
    assert values(panel)["wavelength_um"] == 0.51
