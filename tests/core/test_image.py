import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image, as_image

RAMP = np.arange(20 * 24, dtype=np.float32).reshape(20, 24)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", ">u2", ">f4", "<f8", "float16"])
def test_any_real_dtype_becomes_native_float32(dtype):
    given_ = (RAMP % 200).astype(dtype)
    image = as_image(given_)
    assert image.data.dtype == np.float32
    assert image.data.dtype.isnative
    np.testing.assert_array_equal(image.data, RAMP % 200)


def test_boolean_becomes_zero_and_one():
    image = as_image(RAMP % 2 > 0)
    assert set(np.unique(image.data)) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        (RAMP + 1j, "real numbers"),
        (np.array(["a"]), "real numbers"),
        (np.zeros((0, 32)), "length 0"),
        (np.zeros(32), "2 to 5 axes"),
        (np.zeros((1,) * 4 + (20, 20)), "2 to 5 axes"),
        (np.ones((20, 20)), "constant"),
        (RAMP[:8], "at least 16"),
        (np.random.default_rng(0).random((32, 32, 3)), "RGB"),
        (np.where(RAMP > 5, np.nan, RAMP), "finite"),
        (np.where(RAMP > 5, np.inf, RAMP), "finite"),
        ([[1, 2], [3]], "regular array"),
    ],
)
def test_bad_images_name_argument_rule_and_value(bad, rule):
    with pytest.raises(InvalidInputError, match=rule) as caught:
        as_image(bad, "photo")
    assert caught.value.argument == "photo"
    assert "received" in str(caught.value)


def test_overflow_to_float32_is_refused_as_infinite():
    with pytest.raises(InvalidInputError, match="finite"):
        as_image(np.array([[1e300] * 20] * 19 + [[0.0] * 20]))


def test_axes_must_fit_and_pixel_size_must_be_positive():
    with pytest.raises(InvalidInputError, match="axes"):
        Image(RAMP, "zyx")
    with pytest.raises(InvalidInputError, match="pixel_size_um"):
        Image(RAMP, "yx", (0.0, 1.0))


def test_planes_and_numpy_view():
    image = Image(np.zeros((2, 3, 20, 24), np.float32))
    assert image.axes == "tzyx"
    assert image.planes().shape == (6, 20, 24)
    assert np.asarray(image).shape == (2, 3, 20, 24)


@given(
    hnp.arrays(
        dtype=st.sampled_from([np.uint8, np.int16, np.float64]),
        shape=hnp.array_shapes(min_dims=2, max_dims=5, min_side=1, max_side=18),
    )
)
def test_any_array_is_accepted_or_refused_by_name(array):
    try:
        image = as_image(array)
    except InvalidInputError as error:
        assert error.argument == "image"  # noqa: PT017 - either outcome is right
    else:
        assert image.data.shape == array.shape
        assert np.isfinite(image.data).all()


def test_taking_a_background_off_keeps_what_is_below_zero():
    rng = np.random.default_rng(0)
    image = Image(rng.normal(10, 2, (20, 24)).astype(np.float32), "yx", (0.1, 0.1))
    rest = image.without(np.full((20, 24), 10.0))
    assert rest.data.min() == 0
    assert rest.below.max() == 0
    np.testing.assert_allclose(rest.unclipped, image.data - 10, atol=1e-6)
    assert rest.pixel_size_um == (0.1, 0.1)
    assert rest.with_data(rest.data).below is None
    np.testing.assert_array_equal(image.unclipped, image.data)


def test_a_background_of_another_shape_is_refused():
    image = Image(np.ones((20, 24), np.float32))
    with pytest.raises(InvalidInputError, match=r"background must have the image's shape \(20, 24\)"):
        image.without(np.ones((24, 20)))
    with pytest.raises(InvalidInputError, match="below must have"):
        Image(np.ones((20, 24), np.float32), below=np.zeros((2, 2), np.float32))


def test_one_pixel_size_counts_for_both_axes():
    assert Image(np.ones((20, 20), np.float32), pixel_size_um=0.1).pixel_size_um == (0.1, 0.1)


@pytest.mark.parametrize("size", [(0.1,), (0.1, 0.1, 0.1), "fine", (0.1, None), 0, (0.1, np.nan)])
def test_other_pixel_sizes_are_refused(size):
    with pytest.raises(InvalidInputError, match="pixel_size_um must be"):
        Image(np.ones((20, 20), np.float32), pixel_size_um=size)


def test_an_axis_is_named_once():
    with pytest.raises(InvalidInputError, match="axes must have a letter of its own"):
        Image(np.ones((2, 3, 20, 20), np.float32), axes="zzyx")


def test_lists_become_arrays():
    assert Image([[1, 2], [3, 4]]).data.dtype == np.float32
