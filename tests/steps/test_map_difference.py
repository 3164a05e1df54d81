import numpy as np
import pytest
from numpy.testing import assert_allclose

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.steps.map_difference import subtract


def make(parameters, model="zernike-3", shift=0.0, size=256, **more):
    rows, cols = np.asarray(parameters).shape[:2]
    centers = np.stack(
        np.meshgrid(63.5 + 64 * np.arange(rows), 63.5 + 64 * np.arange(cols), indexing="ij"), axis=-1
    )
    return PsfMap.from_parameters(
        model, parameters, centers_px=centers + shift, image_shape=(size, size), **more
    )


def test_differences_and_their_numbers():
    rng = np.random.default_rng(0)
    base = np.full((3, 3, 3), [0.3, 0.1, 3.1], np.float32)
    other = base + np.array([-0.1, 0.02, 0.2]) + rng.normal(0, 0.01, base.shape)
    other[..., 2] %= np.pi
    error = np.full_like(base, 0.05)
    found = subtract(make(base, predicted_error=error), make(other, predicted_error=error))
    defocus, power, axis = found.summary()
    assert defocus.name == "defocus_waves"
    assert defocus.median == pytest.approx(0.1, abs=0.01)
    assert power.median == pytest.approx(-0.02, abs=0.01)
    assert axis.median == pytest.approx(-0.2, abs=0.02), "the smallest turn, across π"
    assert_allclose(found.expected_error, 0.05 * np.sqrt(2), rtol=1e-5)
    assert defocus.in_errors == pytest.approx(0.1 / (0.05 * np.sqrt(2)), rel=0.1)
    assert defocus.spread < 0.03


def test_an_axis_without_defocus_turns_by_an_eighth_of_a_circle_at_most():
    base = np.full((2, 2, 2), [0.1, 0.1], np.float32)
    other = base + np.float32([0, np.pi / 2 - 0.2])
    _, axis = subtract(make(base, "zernike-2"), make(other, "zernike-2")).summary()
    assert axis.median == pytest.approx(0.2, abs=1e-5)


def test_only_places_valid_in_both_count():
    base = np.zeros((2, 2, 1), np.float32) + 2
    other = base.copy()
    other[0, 0] = 4
    valid = np.ones((2, 2), bool)
    valid[0, 0] = False
    found = subtract(make(base, "gaussian-1"), make(other, "gaussian-1", valid=valid))
    assert found.summary()[0].median == 0
    assert found.summary()[0].in_errors is None
    with pytest.raises(InvalidInputError, match="valid somewhere"):
        subtract(make(base, "gaussian-1", valid=~valid), make(other, "gaussian-1", valid=valid))


@pytest.mark.parametrize(
    ("other", "rule"),
    [
        ({"parameters": np.ones((2, 2, 1)), "model": "gaussian-1"}, "family zernike-3"),
        ({"parameters": np.ones((2, 3, 3))}, "same stride"),
        ({"parameters": np.ones((2, 2, 3)), "size": 300}, "over"),
        ({"parameters": np.ones((2, 2, 3)), "shift": 5.0}, "positions"),
    ],
)
def test_maps_of_other_things_are_refused(other, rule):
    with pytest.raises(InvalidInputError, match=rule):
        subtract(make(np.ones((2, 2, 3))), make(**other))
