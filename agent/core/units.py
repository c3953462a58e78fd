"""Format quantities with units."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def three_digits(value: float) -> str:
    """Return a number with at most three significant digits: 0.25, 3.1, 42, 1234."""
    if value >= 99.5 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.95 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def size_unit(largest: float) -> tuple[str, float]:
    """Return the unit for amounts of up to so many bytes, and the bytes in it."""
    index = 0
    while index < len(_UNITS) - 1 and largest >= 1024.0 ** (index + 1):
        index += 1
    return _UNITS[index], 1024.0**index


def size(count: float) -> str:
    """Return a number of bytes: 3.1 MiB."""
    unit, scale = size_unit(count)
    return f"{three_digits(count / scale)} {unit}"


def rate(count: float) -> str:
    """Return a number of bytes per second: 3.1 MiB/s."""
    return f"{size(count)}/s"


def duration(seconds: float) -> str:
    """Return a duration: 0.25 s, 42 s, 3 min 5 s, 2 h 13 min."""
    if seconds < 99.5:
        return f"{three_digits(seconds)} s" if seconds >= 0.01 or not seconds else "0.00 s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def share(amount: float, whole: float) -> str:
    """Return a share of a whole in percent."""
    percent = 100 * amount / whole if whole else 0.0
    return f"{percent:.0f} %" if percent >= 1 or not percent else "below 1 %"
