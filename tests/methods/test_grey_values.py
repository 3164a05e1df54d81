import pytest

from napari_deblur.core.params import parameters
from napari_deblur.methods.base import GREY_VALUES, make_method, registry


@pytest.mark.parametrize("method", sorted(registry()))
def test_what_is_in_grey_values_follows_the_unit_of_the_image(method):
    fields = [field for field in parameters(registry()[method]) if field.unit == GREY_VALUES]
    given = make_method(method, **{field.name: 12.0 for field in fields})
    scaled = given.scaled(4.0)
    assert all(getattr(scaled, field.name) == 3.0 for field in fields)
    others = {field.name for field in parameters(type(given))} - {field.name for field in fields}
    assert all(getattr(scaled, name) == getattr(given, name) for name in others)
    assert make_method(method).scaled(4.0) == make_method(method)
