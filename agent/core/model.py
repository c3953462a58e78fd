"""The program's data types: plain values, without any input or output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

# How a task in a helper process sends messages to the agent: one JSON object at a time.
Emit = Callable[[dict[str, Any]], None]

FETCH, UNPACK, JOIN, RUN, RELEASE, UPLOAD = "fetch", "unpack", "join", "run", "release", "upload"
PHASES = (FETCH, UNPACK, JOIN, RUN, RELEASE, UPLOAD)

APPLICATION, AGENT = "application", "agent"
# The `what` of an error that concerns many files.
CREDENTIALS = "get AWS credentials"


class FailureKind(Enum):
    """What kind of failure it is: it decides which waits are aborted."""

    SIGNAL = "signal"  # this node received a signal to stop
    PEER = "peer"  # another node was lost, or has failed
    MAIN_LOST = "main_lost"  # a worker gets no heartbeats of the main node
    FROZEN = "frozen"  # this node was frozen, and its peers continued without it
    OTHER = "other"


def node_name(index: int, main_index: int) -> str:
    """Return a node's name as messages show it."""
    return "main" if index == main_index else f"worker {index}"


@dataclass(frozen=True)
class Topology:
    """Place this node among the nodes of one attempt of one job.

    `index` and `main_index` count from 0; `main_address` is set on workers only.
    """

    job: str
    attempt: int
    index: int = 0
    count: int = 1
    main_index: int = 0
    main_address: str = ""

    @property
    def is_main(self) -> bool:
        """Return whether this node launches the application."""
        return self.index == self.main_index

    @property
    def workers(self) -> list[int]:
        """Return the indexes of the other nodes than the main one, in order."""
        return [index for index in range(self.count) if index != self.main_index]

    def name(self, index: int) -> str:
        """Return the name of the node with this index."""
        return node_name(index, self.main_index)


@dataclass(frozen=True)
class Node:
    """One node as the hostfile and the record show it; `slots` is processes per node."""

    index: int
    address: str
    slots: int
    version: str = ""


@dataclass
class Span:
    """The time one phase took, in seconds of this node's monotonic clock."""

    phase: str
    start: float
    end: float | None = None


@dataclass
class Outcome:
    """How the job ended.

    `code` is the job's exit code, `source` is its origin (`application` or `agent`), `signal`
    the number of the signal that killed the application, 0 if none did.
    """

    code: int
    source: str = APPLICATION
    signal: int = 0
    out_of_memory: bool = False
    cause: str = ""
    hint: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class NodeFiles:
    """Where a node's record and the list of its results are; a missing list counts as empty."""

    record: str
    listed: str
    complete: bool
