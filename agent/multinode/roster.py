"""The roster of the workers: which have joined, are refused, or are silent. No I/O."""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Any

from agent.core.model import Node, Topology

SIZE_LIMIT = 1 << 16
_NAME = re.compile(r"(0|[1-9]\d{0,5})\.json")


class Refused(ValueError):
    """Why a readiness file is refused."""


def index_of(name: str) -> int | None:
    """Return the index in the name `<index>.json`, None for any other name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def parse(name: str, data: bytes, topology: Topology) -> Node:
    """Read a readiness file of this job's attempt; raise Refused otherwise."""
    index = index_of(name)
    if index is None or index not in topology.workers:
        raise Refused(f"{name}: no worker of {topology.count} nodes has this index")
    if len(data) > SIZE_LIMIT:
        raise Refused(f"{name}: longer than {SIZE_LIMIT} bytes")
    try:
        fields: Any = json.loads(data)
        node = Node(
            index=_whole(fields["index"]),
            address=str(ipaddress.ip_address(fields["address"])),
            slots=_whole(fields["slots"]),
            version=str(fields.get("version", ""))[:40],
        )
        job, attempt = fields["job"], fields["attempt"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(f"{name}: truncated or not a readiness file ({error})") from error
    if node.index != index:
        raise Refused(f"{name}: its index is {node.index}")
    if (job, attempt) != (topology.job, topology.attempt):
        raise Refused(f"{name}: from attempt {attempt} of job {job}")
    if not 1 <= node.slots <= 100_000:
        raise Refused(f"{name}: {node.slots} slots")
    return node


def _whole(value: object) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is not a whole number")
    return value


class Roster:
    """The workers of one attempt. Times are in seconds of the caller's clock."""

    def __init__(self, topology: Topology, silence: float) -> None:
        self.nodes: dict[int, Node] = {}
        self._topology = topology
        self._silence = silence
        self._seen_at: dict[int, float] = {}

    def offer(self, name: str, data: bytes, now: float) -> Node | None:
        """Take a readiness file; return the node if it is new. Raise Refused but for the first."""
        node = parse(name, data, self._topology)
        known = self.nodes.get(node.index)
        if known is None:
            self.nodes[node.index] = node
        elif known != node:
            raise Refused(f"{name}: worker {node.index} has joined from {known.address}")
        self._seen_at[node.index] = now
        return node if known is None else None

    def seen(self, index: int) -> float:
        """Return when the last heartbeat of a joined node arrived."""
        return self._seen_at[index]

    def leave(self, index: int) -> None:
        """Expect no more heartbeats from a node."""
        self._seen_at.pop(index, None)

    @property
    def missing(self) -> list[int]:
        """Return the indexes of workers that have not joined."""
        return [index for index in self._topology.workers if index not in self.nodes]

    def silent(self, now: float) -> list[int]:
        """Return the indexes of those that have been silent for too long."""
        return sorted(i for i, seen_at in self._seen_at.items() if now - seen_at > self._silence)
