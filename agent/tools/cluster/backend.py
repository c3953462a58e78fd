"""The interface of a backend, which runs nodes as containers or as processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Protocol


class RunningNode(Protocol):
    """One started node."""

    @property
    def address(self) -> str:
        """Return the address at which other nodes reach it."""

    @property
    def started(self) -> float:
        """Return when the node had started, in seconds of the system's clock."""

    @property
    def stdout(self) -> IO[bytes]:
        """Return the node's standard output."""

    @property
    def stderr(self) -> IO[bytes]:
        """Return the node's standard error."""

    def wait(self) -> int:
        """Wait for the node's exit; return its exit code, 128+N for signal N."""

    def signal(self, number: int) -> None:
        """Send a signal to the node's agent."""

    def kill(self) -> None:
        """Kill everything on the node at once, like a power cut."""

    def cut(self) -> None:
        """Disconnect the node from the network; raise AgentError where that can't be."""

    def mend(self) -> None:
        """Reconnect the node."""

    def freeze(self) -> None:
        """Freeze the node until `thaw`."""

    def thaw(self) -> None:
        """Resume a frozen node."""


class Backend(Protocol):
    """Where nodes run."""

    @property
    def description(self) -> str:
        """Return what the nodes are, for messages."""

    @property
    def host_address(self) -> str:
        """Return an address of this machine that every node can reach."""

    def open(self) -> None:
        """Prepare to start nodes."""

    def close(self) -> None:
        """Remove every node and all that belongs to the backend; never raise."""

    def address_of(self, index: int) -> str:
        """Return a node's address, also before it starts."""

    def start(self, envs: Mapping[int, Mapping[str, str]]) -> Mapping[int, RunningNode]:
        """Start a node for each index, with its environment."""
