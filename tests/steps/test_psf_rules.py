"""What a record tells of where a PSF map came from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.optics.simulated_fields import SimulatedFields
from napari_deblur.steps.psf_rules import describe_map

STEP = {"kind": "estimate-psf-map", "model": "gaussian-2", "one_psf": True}


@pytest.fixture
def built():
    return PsfMap.from_parameters(
        "gaussian-2", np.full((1, 1, 2), 2.0), centers_px=[[[8, 8]]], image_shape=(16, 16)
    )


def test_only_an_estimate_can_be_repeated(built):
    estimate = replace(built, record={"step": STEP})
    assert describe_map(estimate)["estimated"] == STEP
    assert "made" not in describe_map(estimate)
    assert describe_map(built)["made"] == "built from parameters"
    edited = replace(estimate, record={"step": STEP, "edited": {"sigma_y_px": 1.0}})
    assert describe_map(edited)["made"] == "edited by hand"
    assert "estimated" not in describe_map(edited)


def test_of_bases_only_simulated_ones_are_found_again():
    basis = SimulatedFields(n_fields=6, n_positions=3).basis()
    found = basis.operator(basis.coefficients[0], (96, 96), record={"step": {"kind": "identify-operator"}})
    assert describe_map(found)["simulated"] is True
    measured = replace(found, basis=replace(basis, record={}))
    assert describe_map(measured)["made"] == "found in a PSF basis"
    field = basis.of_field(basis.labels[1], (96, 96))
    assert describe_map(field)["made"] == "measured for a field of a PSF basis"
