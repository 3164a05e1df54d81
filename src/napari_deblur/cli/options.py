"""Command-line options, most of them generated from the declared parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from pydantic_core import PydanticUndefined

from napari_deblur.core.params import Declared, ParamInfo, parameters

Values = Mapping[str, Any]
_METAVARS = {"int": "INT", "float": "NUMBER", "str": "TEXT", "choice": "CHOICE"}


@dataclass(frozen=True)
class Option:
    """One option or positional argument of a command.

    Attributes
    ----------
    name : str
        Key under which the command finds the value; absent where the user gave none.
    help : str
    metavar : str
        What stands for the value in the help.
    kind : {"value", "flag", "switch", "position", "positions"}
        A switch is a flag that can be turned off too.
    short : str
        Short form, such as ``-o``.
    required : bool
    """

    name: str
    help: str
    metavar: str = "TEXT"
    kind: Literal["value", "flag", "switch", "position", "positions"] = "value"
    short: str = ""
    required: bool = False

    @property
    def shown(self) -> str:
        """How a user writes it."""
        positional = self.kind in ("position", "positions")
        return self.metavar if positional else "--" + self.name.replace("_", "-")

    def parameter(self) -> inspect.Parameter:
        """Return the parameter of a function from which cyclopts makes the option."""
        kinds: dict[str, tuple[Any, Any]] = {
            "value": (inspect.Parameter.KEYWORD_ONLY, str),
            "flag": (inspect.Parameter.KEYWORD_ONLY, bool),
            "switch": (inspect.Parameter.KEYWORD_ONLY, bool),
            "position": (inspect.Parameter.POSITIONAL_ONLY, str),
            "positions": (inspect.Parameter.VAR_POSITIONAL, str),
        }
        place, type_ = kinds[self.kind]
        settings: dict[str, Any] = {
            "name": [self.shown, self.short] if self.short else [self.shown],
            "help": self.help,
            "show_default": False,
            # Numbers below zero and, after an option, anything at all: what it means is checked later.
            "allow_leading_hyphen": self.kind == "value",
        }
        if self.kind == "flag":
            settings["negative"] = ""
        if type_ is str:
            settings["metavar"] = self.metavar
        optional = not self.required and self.kind not in ("positions", "position")
        return inspect.Parameter(
            self.name,
            place,
            default=None if optional else inspect.Parameter.empty,
            annotation=Annotated[type_ | None if optional else type_, Parameter(**settings)],
        )


def from_declaration(model: type[Declared], skip: Iterable[str] = ()) -> list[Option]:
    """Return one option per parameter of a declaration.

    Parameters
    ----------
    model : type
        A step, a method, optics, …
    skip : iterable of str
        Names that the command gets in another way.
    """
    left_out = set(skip)
    return [_from_info(info) for info in parameters(model) if info.name not in left_out]


def given(values: Values, model: type[Declared]) -> dict[str, Any]:
    """Return those values that are a declaration's parameters, as the user wrote them."""
    names = {info.name for info in parameters(model)}
    return {name: value for name, value in values.items() if name in names}


def command(
    body: Callable[[Values], int | None], name: str, help: str, options: Sequence[Option]
) -> Callable[..., int]:
    """Return a function that cyclopts can read the options from.

    Parameters
    ----------
    body : callable
        Gets what the user gave, by option name; returns the exit code, or None for 0.
    name, help : str
        Of the command.
    options : sequence of Option
    """
    ordered = sorted(options, key=lambda option: ["position", "positions"].count(option.kind) == 0)
    positions = [option.name for option in ordered if option.kind == "position"]
    rest = next((option.name for option in ordered if option.kind == "positions"), None)

    def run(*args: Any, **kwargs: Any) -> int:
        values = dict(zip(positions, args, strict=False))
        if rest is not None:
            values[rest] = list(args[len(positions) :])
        values |= {key: value for key, value in kwargs.items() if value is not None}
        return body(values) or 0

    run.__name__ = name.replace("-", "_")
    run.__doc__ = help
    signature = inspect.Signature([option.parameter() for option in ordered])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {
        option.name: p.annotation for option, p in zip(ordered, signature.parameters.values(), strict=True)
    }
    run.options = ordered  # type: ignore[attr-defined]
    return run


def _from_info(info: ParamInfo) -> Option:
    if info.kind == "bool":
        return Option(info.name, _help(info), kind="switch")
    return Option(info.name, _help(info), _METAVARS[info.kind])


def _help(info: ParamInfo) -> str:
    notes = []
    if info.choices:
        notes.append("one of " + ", ".join(info.choices))
    elif bounds := _bounds(info):
        notes.append(bounds + (f" {info.unit}" if info.unit else ""))
    elif info.unit:
        notes.append(f"in {info.unit}")
    if info.default is not PydanticUndefined and info.default is not None:
        default = (
            {True: "on", False: "off"}.get(info.default, info.default)
            if info.kind == "bool"
            else info.default
        )
        notes.append(f"default {default}")
    return f"{info.help} [{'; '.join(notes)}]" if notes else info.help


def _bounds(info: ParamInfo) -> str:
    if info.low is not None and info.high is not None:
        return f"{'above ' if info.low_is_open else ''}{_number(info.low)} to {_number(info.high)}"
    if info.low is not None:
        return f"{'above' if info.low_is_open else 'from'} {_number(info.low)}"
    return f"up to {_number(info.high)}" if info.high is not None else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"
