"""The one declaration of a parameter: forms, options, recipes and records are all read from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from napari_deblur.core.errors import InvalidInputError

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # pydantic gives it no public name


def Param(  # noqa: N802 - reads as a declaration, like pydantic's Field
    default: Any = ...,
    *,
    title: str,
    help: str,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    step: float | None = None,
    unit: str | None = None,
    advanced: bool = False,
    shown_if: dict[str, tuple[str, ...]] | None = None,
) -> Any:
    """Declare a parameter once.

    Parameters
    ----------
    default : object
        Value used when the caller gives none.
    title : str
        Label in a form.
    help : str
        One sentence for tooltips, ``--help`` and the docs.
    ge, gt, le : float, optional
        Bounds.
    step : float, optional
        Increment of a spin box.
    unit : str, optional
        Physical unit, shown after the value.
    advanced : bool
        Whether a form folds the parameter away.
    shown_if : dict, optional
        Another parameter's name and the values of it for which this one has an effect.
    """
    extra: dict[str, Any] = {"step": step, "unit": unit, "advanced": advanced, "shown_if": shown_if}
    return Field(default, title=title, description=help, ge=ge, gt=gt, le=le, json_schema_extra=extra)


class _OneClearError(ModelMetaclass):
    """Turns pydantic's report into one error, for those who make a declared model by calling its class.

    Not in ``__init__``: what pydantic itself makes, nested models among them, stays in its own report.
    """

    if not TYPE_CHECKING:  # the signature of a model is that of its fields

        def __call__(cls, **values: Any) -> Any:  # noqa: N805 - the instances are classes
            try:
                return super().__call__(**values)
            except ValidationError as error:
                raise _first_error(cls, error, values) from None


class Declared(BaseModel, metaclass=_OneClearError):
    """A frozen model whose fields are its parameters.

    Raises
    ------
    InvalidInputError
        Naming the first parameter that breaks its rule.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class ParamInfo:
    """What forms and command lines need to know of a parameter.

    Attributes
    ----------
    name, title, help : str
    kind : {"int", "float", "bool", "str", "choice"}
    default : object
    optional : bool
        Whether ``None`` is a value too.
    low, high, step : float or None
        Bounds and increment.
    low_is_open : bool
        Whether ``low`` itself is excluded.
    unit : str or None
    choices : tuple of str
        Allowed values of a ``choice``.
    advanced : bool
    shown_if : dict
        Another parameter and the values of it for which this one has an effect; empty: always.
    """

    name: str
    title: str
    help: str
    kind: Literal["int", "float", "bool", "str", "choice"]
    default: Any
    optional: bool
    low: float | None
    high: float | None
    low_is_open: bool
    step: float | None
    unit: str | None
    choices: tuple[str, ...]
    advanced: bool
    shown_if: dict[str, tuple[str, ...]]


def _kind(annotation: Any) -> tuple[Literal["int", "float", "bool", "str", "choice"], bool, tuple[str, ...]]:
    """Return (kind, optional, choices) of a field's annotation."""
    optional = False
    if get_origin(annotation) in (Union, type(int | str)):
        members = [member for member in get_args(annotation) if member is not type(None)]
        optional = len(members) < len(get_args(annotation))
        if len(members) != 1:
            raise TypeError(f"a parameter has one type, possibly optional; got {annotation}")
        annotation = members[0]
    if get_origin(annotation) is Literal:
        return "choice", optional, tuple(str(choice) for choice in get_args(annotation))
    for cls, kind in ((bool, "bool"), (int, "int"), (float, "float"), (str, "str")):
        if annotation is cls:
            return kind, optional, ()  # type: ignore[return-value]
    raise TypeError(f"no form or option is known for a parameter of type {annotation}")


def _bounds(field: FieldInfo) -> tuple[float | None, bool, float | None]:
    low, low_is_open, high = None, False, None
    for entry in field.metadata:
        if (ge := getattr(entry, "ge", None)) is not None:
            low = ge
        if (gt := getattr(entry, "gt", None)) is not None:
            low, low_is_open = gt, True
        if (le := getattr(entry, "le", None)) is not None:
            high = le
    return low, low_is_open, high


def _is_nested(annotation: Any) -> bool:
    """Return whether a field holds another declaration, which has a form and options of its own."""
    return isinstance(annotation, type) and issubclass(annotation, Declared)


def parameters(model: type[Declared]) -> list[ParamInfo]:
    """List a model's parameters in the order of declaration, without its ``kind`` tag and nested ones."""
    found = []
    for name, field in model.model_fields.items():
        if name == "kind" or _is_nested(field.annotation):
            continue
        kind, optional, choices = _kind(field.annotation)
        low, low_is_open, high = _bounds(field)
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        found.append(
            ParamInfo(
                name=name,
                title=field.title or name,
                help=field.description or "",
                kind=kind,
                default=field.default,
                optional=optional,
                low=low,
                high=high,
                low_is_open=low_is_open,
                step=extra.get("step"),  # type: ignore[arg-type]
                unit=extra.get("unit"),  # type: ignore[arg-type]
                choices=choices,
                advanced=bool(extra.get("advanced")),
                shown_if=extra.get("shown_if") or {},  # type: ignore[arg-type]
            )
        )
    return found


def _first_error(model: type[Declared], error: ValidationError, values: dict[str, Any]) -> InvalidInputError:
    first = error.errors(include_url=False)[0]
    argument = ".".join(str(part) for part in first["loc"]) or model.__name__
    if first["type"] == "extra_forbidden":
        known = ", ".join(info.name for info in parameters(model)) or "no parameter"
        return InvalidInputError(argument, f"is not a parameter here (known: {known})", first["input"])
    rule = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if first["msg"].startswith("Input should be "):
        rule = f"must be {rule}"
    elif first["type"] == "missing":
        return InvalidInputError(argument, "is required", "nothing")
    return InvalidInputError(argument, rule, first["input"] if first["loc"] else values)
