"""Write and read hostfiles: lines `ADDRESS slots=N`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from agent.core.model import Node

_LINE = re.compile(r"(\S+)\s+slots=(\d+)\s*")


def write(nodes: Iterable[Node]) -> str:
    """Return one line per node in the order given."""
    return "".join(f"{node.address} slots={node.slots}\n" for node in nodes)


def deduped(nodes: Iterable[Node]) -> str:
    """Return one line per address, with the slots of its nodes added up."""
    slots: dict[str, int] = {}
    for node in nodes:
        slots[node.address] = slots.get(node.address, 0) + node.slots
    return "".join(f"{address} slots={count}\n" for address, count in slots.items())


def parse(text: str) -> list[tuple[str, int]]:
    """Return (address, slots) per line; raise ValueError with an invalid line."""
    rows = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if not match:
            raise ValueError(f"{line!r} is not a hostfile line")
        rows.append((match[1], int(match[2])))
    return rows
