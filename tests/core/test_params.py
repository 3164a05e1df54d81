from typing import Literal

import pytest

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.params import Declared, Param, parameters


class Inner(Declared):
    kind: Literal["inner"] = "inner"


class Model(Declared):
    kind: Literal["model"] = "model"
    count: int = Param(3, ge=1, le=9, title="Count", help="How many.")
    width: float | None = Param(
        None, gt=0, step=0.5, unit="px", title="Width", help="How wide.", advanced=True
    )
    mode: Literal["a", "b"] = Param("a", title="Mode", help="Which.", shown_if={"count": ("3",)})
    flag: bool = Param(False, title="Flag", help="Whether.")
    inner: Inner = Inner()


def test_parameters_are_read_from_the_declaration():
    count, width, mode, flag = parameters(Model)
    assert (count.kind, count.low, count.high, count.default) == ("int", 1, 9, 3)
    assert (width.kind, width.optional, width.low, width.low_is_open, width.unit) == (
        "float",
        True,
        0,
        True,
        "px",
    )
    assert width.advanced
    assert mode.choices == ("a", "b")
    assert mode.shown_if == {"count": ("3",)}
    assert flag.kind == "bool"


@pytest.mark.parametrize(
    ("values", "argument", "rule"),
    [
        ({"count": 10}, "count", "less than or equal to 9"),
        ({"width": 0.0}, "width", "greater than 0"),
        ({"width": float("nan")}, "width", "finite"),
        ({"mode": "c"}, "mode", "'a' or 'b'"),
        ({"size": 1}, "size", "is not a parameter here"),
    ],
)
def test_a_broken_rule_is_one_clear_error(values, argument, rule):
    with pytest.raises(InvalidInputError, match=rule) as caught:
        Model(**values)
    assert caught.value.argument == argument


def test_models_are_frozen():
    with pytest.raises(Exception, match="frozen"):
        Model().count = 4
