"""Follow one node's output and exit in threads that only read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Protocol

from agent.engine.pipe import Lines
from agent.tools.cluster.backend import RunningNode
from agent.tools.cluster.states import NodeState, parse_record

_CHUNK = 1 << 16
# A line is for display or for the parser; the files keep every byte.
_LONGEST_LINE = 1 << 16
# A process that the node left behind may hold its output open forever.
_DRAIN_SECONDS = 3.0


class Listener(Protocol):
    """The interface of a listener; called from the following threads."""

    def record(self, node: NodeState, record: dict[str, object]) -> None:
        """Handle one record of the agent's log."""

    def line(self, node: NodeState, text: str, *, error: bool) -> None:
        """Handle one line of output that is not a record; `error`: it was on stderr."""

    def exited(self, node: NodeState) -> None:
        """Handle the node's exit."""


class Follower:
    """The threads that follow one node; `changed` is notified after every change of its state."""

    def __init__(
        self,
        node: RunningNode,
        state: NodeState,
        listener: Listener,
        changed: threading.Condition,
    ) -> None:
        self._node = node
        self._state = state
        self._listener = listener
        self._changed = changed
        for copy in (state.stdout_file, state.stderr_file):
            copy.touch()  # readers of them need not wait for the threads
        self._readers = [
            _thread(self._read, node.stdout, state.stdout_file, self._take_output),
            _thread(self._read, node.stderr, state.stderr_file, self._take_log),
        ]
        self._waiter = _thread(self._wait)

    def join(self, seconds: float) -> None:
        """Wait for the threads, which end with the node."""
        self._waiter.join(seconds)

    def _read(self, stream: IO[bytes], copy: Path, take: Callable[[str], None]) -> None:
        with copy.open("wb", buffering=0) as file:
            for line in lines(_chunks(stream, file)):
                take(line.decode("utf-8", "replace"))

    def _take_output(self, line: str) -> None:
        with self._changed:
            self._state.tail.append(line)
        self._listener.line(self._state, line, error=False)

    def _take_log(self, line: str) -> None:
        record = parse_record(line)
        if record is None:
            self._listener.line(self._state, line, error=True)
            return
        with self._changed:
            self._state.take(record)
            self._changed.notify_all()
        self._listener.record(self._state, record)

    def _wait(self) -> None:
        code = self._node.wait()
        for reader in self._readers:
            reader.join(_DRAIN_SECONDS)
        with self._changed:
            self._state.end(code)
        # Notified first, so that a waiter for the exit has the last line.
        self._listener.exited(self._state)
        with self._changed:
            self._changed.notify_all()


def lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield lines without their ends; one that is too long comes in pieces."""
    reader = Lines(_LONGEST_LINE)
    for chunk in chunks:
        yield from reader.feed(chunk)
    if rest := reader.rest():
        yield rest


def _chunks(stream: IO[bytes], copy: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read1(_CHUNK):  # type: ignore[attr-defined]
        copy.write(chunk)
        yield chunk


def _thread(target: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, daemon=True)
    thread.start()
    return thread
