"""Parse the value of a variable: text in, a value out; ValueError with the cause, and a hint."""

from __future__ import annotations

import shlex
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Parser = Callable[[str], "Any"]


class Invalid(ValueError):
    """A value is not valid; `hint` says what to set, empty for: correct it."""

    def __init__(self, cause: str, hint: str = "") -> None:
        super().__init__(cause)
        self.hint = hint


def flaw(password: str) -> str:
    """Return why a password is invalid, empty if it is valid: packing and jobs share this rule."""
    if "\n" in password or "\r" in password:
        return "contains a newline"
    return "" if is_text(password) else "not valid UTF-8"


def is_text(value: str) -> bool:
    """Return whether the bytes that a variable was given were UTF-8 (PEP 383 keeps others)."""
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)


def text(given: str) -> str:
    """Return the text unchanged."""
    return given


def argv(given: str) -> tuple[str, ...]:
    """Return arguments, split as a shell does."""
    try:
        return tuple(shlex.split(given))
    except ValueError as error:
        raise Invalid(str(error).lower(), "close the quotes, as in a shell") from error


def patterns(given: str) -> tuple[str, ...]:
    """Return what is separated by spaces."""
    return tuple(given.split())


def choice(*valid: str) -> Parser:
    """Return the parser of one of some values, in any case."""

    def parse(given: str) -> str:
        if given.lower() not in valid:
            raise Invalid(f"valid are {', '.join(valid)}", "set one of them")
        return given.lower()

    return parse


def integer(minimum: int, maximum: int | None = None) -> Parser:
    """Return the parser of a whole number within limits."""

    def parse(given: str) -> int:
        digits = given.isascii() and given.isdigit()
        if not digits or not minimum <= int(given) <= (maximum or int(given)):
            limits = f"from {minimum} to {maximum}" if maximum else f"of {minimum} or more"
            raise Invalid(f"not a whole number {limits}")
        return int(given)

    return parse


def seconds(given: str) -> float:
    """Return a number of seconds, more than 0."""
    value = seconds_or_none(given)
    if not value:
        raise Invalid("not a number of seconds above 0", "for example 30")
    return value


def seconds_or_none(given: str) -> float:
    """Return a number of seconds, which may be 0."""
    try:
        value = float(given)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise Invalid("not a number of seconds", "for example 30")
    return value


def slots(given: str) -> int | str:
    """Return a number of processes, or what is counted."""
    return given if given in ("cores", "threads") else int(integer(1)(given))
