"""What a backend must offer: nodes run as containers or as processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Protocol


class RunningNode(Protocol):
    """One started node."""

    @property
    def address(self) -> str:
        """Return the address that the other nodes reach."""

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
        """Wait for the node's end; return its exit code, 128+N for signal N."""

    def signal(self, number: int) -> None:
        """Send a signal to the node's agent."""

    def kill(self) -> None:
        """End everything on the node at once, as a power cut does."""

    def cut(self) -> None:
        """Take the node off the network; raise AgentError where that can't be."""

    def mend(self) -> None:
        """Put a node that was cut off back on the network."""

    def freeze(self) -> None:
        """Stop the node's clockwork until `thaw`."""

    def thaw(self) -> None:
        """Let a frozen node go on."""


class Backend(Protocol):
    """Where nodes run."""

    @property
    def description(self) -> str:
        """Return what the nodes are, for people."""

    @property
    def host_address(self) -> str:
        """Return the address of this machine that every node reaches."""

    def open(self) -> None:
        """Make ready to start nodes."""

    def close(self) -> None:
        """Remove every node and all that belongs to the place; never raise."""

    def address_of(self, index: int) -> str:
        """Return a node's address, also before it starts."""

    def start(self, envs: Mapping[int, Mapping[str, str]]) -> Mapping[int, RunningNode]:
        """Start a node for each index, with its environment."""
