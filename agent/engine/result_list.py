"""The list of a node's uploaded results: one JSON object per line, of any length."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

# More than so many aren't sorted by name.
_SORTED = 50_000


def files(path: str) -> Iterator[dict[str, Any]]:
    """Yield what a list of results has; a line that was cut short is left out."""
    try:
        with open(path, encoding="utf-8", errors="replace", opener=open_no_link) as file:
            for line in file:
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    one = json.loads(line)
                    plain = {"name": str(one["name"]), "size": int(one["size"])}
                    plain |= {"sha256": str(one["sha256"])}
                    yield plain if one.get("final", True) else plain | {"final": False}
    except FileNotFoundError:
        return


def sort(path: str) -> None:
    """Sort a list by name, if it isn't too long for that."""
    found = []
    for one in files(path):
        found.append(one)
        if len(found) > _SORTED:
            return
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        for one in sorted(found, key=lambda one: str(one["name"])):
            file.write(json.dumps(one) + "\n")
    os.replace(f"{path}.new", path)


def open_no_link(path: str, flags: int) -> int:
    """Open a file that another node made: no symbolic link, and nothing that blocks."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
