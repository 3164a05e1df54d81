"""Errors that a person can act on: each names the argument, the rule and the value received."""

from __future__ import annotations

from typing import Any

_LONGEST_RECEIVED = 120


class NapariDeblurError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes
    ----------
    hint : str
        What the user can do next, where there is something to say beyond the rule.
    """

    hint: str = ""


class InvalidInputError(NapariDeblurError, ValueError):
    """An argument breaks a rule.

    Parameters
    ----------
    argument : str
        Name of the argument as the caller wrote it.
    rule : str
        What must hold, as the end of a sentence that starts with the argument's name.
    received : object
        The offending value, or a description of it.
    """

    def __init__(self, argument: str, rule: str, received: Any) -> None:
        self.argument = argument
        self.rule = rule
        self.received = received
        text = received if isinstance(received, str) else repr(received)
        if len(text) > _LONGEST_RECEIVED:
            text = text[: _LONGEST_RECEIVED - 1] + "…"
        super().__init__(f"{argument} {rule}; received {text}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Let the error cross from a worker's process: it is not made from its text alone."""
        return _rebuilt, (type(self), self.args, {**vars(self), "received": str(self.received)})


def _rebuilt(
    cls: type[InvalidInputError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> InvalidInputError:
    error = cls.__new__(cls)
    error.args = args
    vars(error).update(attributes)
    return error


class UntellableError(InvalidInputError):
    """An image is fine, but does not tell what is asked of it."""


class UnknownNameError(InvalidInputError):
    """A method, model or step of that name does not exist."""

    def __init__(self, argument: str, received: str, known: list[str]) -> None:
        super().__init__(argument, f"must be one of {', '.join(known)}", repr(received))


class WeightsError(NapariDeblurError):
    """A weight file is missing, tampered with or does not fit its card."""


class OutputError(NapariDeblurError, OSError):
    """A result could not be written; nothing half-written is left behind."""


class DeviceError(NapariDeblurError, RuntimeError):
    """The requested compute device cannot be used."""


class CancelledError(NapariDeblurError):
    """The run was cancelled.

    Attributes
    ----------
    partial : object or None
        Best result so far, if the step that was interrupted has one.
    """

    partial: Any = None
