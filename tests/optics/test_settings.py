from __future__ import annotations

import math

import pytest

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.params import parameters
from napari_deblur.optics.settings import Optics


def test_cutoff_is_na_times_pixel_over_wavelength():
    optics = Optics(na=1.4, wavelength_um=0.52, pixel_size_um=0.08)
    assert optics.cutoff_cycles_per_px == pytest.approx(1.4 * 0.08 / 0.52)


def test_defocus_per_um_matches_the_exact_path_difference_at_low_na():
    optics = Optics(na=0.2, wavelength_um=0.5, pixel_size_um=0.5, refractive_index=1.0)
    exact_edge_to_centre = (1 - math.sqrt(1 - 0.2**2)) / 0.5
    # Noll's defocus changes by 2 √3 from the centre to the edge.
    assert 2 * math.sqrt(3) * optics.defocus_waves_per_um == pytest.approx(exact_edge_to_centre, rel=0.02)


def test_na_above_the_index_is_refused_by_name():
    with pytest.raises(
        InvalidInputError, match=r"na must not exceed the refractive index 1.33; received 1.4"
    ) as caught:
        Optics(na=1.4, wavelength_um=0.5, pixel_size_um=0.1, refractive_index=1.33)
    assert caught.value.argument == "na"


@pytest.mark.parametrize(
    ("name", "value"), [("na", 0), ("wavelength_um", -0.5), ("pixel_size_um", 0), ("refractive_index", 0.9)]
)
def test_values_out_of_bounds_are_refused_by_name(name, value):
    with pytest.raises(InvalidInputError) as caught:
        Optics(**{"na": 0.8, "wavelength_um": 0.5, "pixel_size_um": 0.1, name: value})
    assert caught.value.argument == name


def test_every_field_has_what_a_form_needs():
    for info in parameters(Optics):
        assert info.title
        assert info.help.endswith(".")
        assert info.step or info.kind == "choice"
