"""Parse the values of single variables; an AgentError (78) names the variable and its value."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from agent.core.errors import bad


def flaw(password: str) -> str:
    """Return why a password can't be used, empty if it can: packing and jobs have the same rule."""
    if "\n" in password or "\r" in password:
        return "contains a newline"
    return "" if is_text(password) else "not valid UTF-8"


def is_text(value: str) -> bool:
    """Return whether the bytes that a variable was given were UTF-8 (PEP 383 keeps others)."""
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)


def words(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Return a variable's value, split as a shell does."""
    try:
        return tuple(shlex.split(env.get(name, "")))
    except ValueError as error:
        hint = "close the quotes, as in a shell"
        raise bad(name, env[name], str(error).lower(), hint) from error


def choice(env: Mapping[str, str], name: str, valid: tuple[str, ...], default: str = "auto") -> str:
    """Return one of the valid values, in lower case."""
    value = (env.get(name) or default).lower()
    if value not in valid:
        raise bad(name, env[name], f"valid are {', '.join(valid)}", "set one of them")
    return value


def integer(
    env: Mapping[str, str],
    name: str,
    default: int | None,
    *,
    minimum: int,
    maximum: int | None = None,
) -> int:
    """Return a whole number within limits; `default` None means that it must be set."""
    given = env.get(name, "")
    if not given and default is not None:
        return default
    if (
        not (given.isascii() and given.isdigit())
        or int(given) < minimum
        or int(given) > (maximum or int(given))
    ):
        limits = f"from {minimum} to {maximum}" if maximum is not None else f"of {minimum} or more"
        raise bad(name, given, f"not a whole number {limits}", f"correct {name}")
    return int(given)


def seconds(env: Mapping[str, str], name: str, default: float, *, zero: bool = False) -> float:
    """Return a number of seconds; `zero` allows 0."""
    given = env.get(name, "")
    if not given:
        return default
    try:
        value = float(given)
    except ValueError:
        value = -1.0
    if not (0 < value < 1e9 or (zero and value == 0)):
        raise bad(name, given, "not a number of seconds", f"for example {name}=30")
    return value
