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


def ulimits(given: str) -> tuple[tuple[str, int, int], ...]:
    """Return resource limits: name, soft and hard value, -1 for unlimited (getrlimit(2))."""
    import resource  # not for every start

    found: dict[str, tuple[str, int, int]] = {}
    for one in given.split():
        name, equals, limits = one.partition("=")
        if not equals or not hasattr(resource, f"RLIMIT_{name.upper()}") or name != name.lower():
            known = (a[7:].lower() for a in sorted(dir(resource)) if a.startswith("RLIMIT_"))
            cause = f"{one!r} is not a name of {', '.join(known)} and a value"
            raise Invalid(cause, "for example stack=unlimited core=0")
        soft, colon, hard = limits.partition(":")
        pair = _ulimit(one, soft), _ulimit(one, hard if colon else soft)
        if pair[1] != -1 and not 0 <= pair[0] <= pair[1]:
            raise Invalid(f"the soft limit of {one!r} is above the hard one")
        if name in found:
            raise Invalid(f"{name} is given twice")
        found[name] = (name, *pair)
    return tuple(found.values())


def _ulimit(one: str, value: str) -> int:
    if value in ("unlimited", "-1"):
        return -1
    if not value.isascii() or not value.isdigit() or int(value) >= 1 << 63:
        hint = "bytes, seconds or a number as in docker run --ulimit, or unlimited"
        raise Invalid(f"{one!r} has no valid value", hint)
    return int(value)
