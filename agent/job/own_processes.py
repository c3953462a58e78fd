"""Keep the agent's own processes apart from the application's, and stop them with the job."""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection
from typing import Protocol

from agent.engine.loop import Loop
from agent.engine.process import Child

_EXIT_SECONDS = 2.0


class Process(Protocol):
    """A process of the agent's own."""

    @property
    def child(self) -> Child:
        """Return the child."""
        ...

    def close(self) -> None:
        """Stop it."""
        ...


class OwnProcesses:
    """The agent's own children on one node: `pids` are those that run.

    Those in `spared` outlive the job. `on_child` is called with each child that exits, `on_end`
    when the job is over.
    """

    def __init__(self, loop: Loop, spared: Collection[int]) -> None:
        self.pids = set(spared)
        self.on_child: list[Callable[[Child], None]] = []
        self.on_end: list[Callable[[], None]] = []
        self._loop = loop
        self._spared = spared

    def track(self, process: Process) -> None:
        """Count a process as the agent's own; it is stopped with the job."""
        self.on_end.append(process.close)
        self.pids.add(process.child.pid)

    def child_exited(self, child: Child) -> None:
        """Pass on that a child has exited."""
        self.pids.discard(child.pid)
        for handle in self.on_child:
            handle(child)

    def end(self) -> None:
        """Leave no process behind, the agent's own or the application's."""
        for close in self.on_end:
            close()
        children = self._loop.children

        def left() -> list[Child]:
            return [child for child in children.running if child.pid not in self._spared]

        for child in left():
            child.kill_group(signal.SIGKILL)
        self._loop.wait(lambda: not left(), self._loop.clock() + _EXIT_SECONDS)
        children.kill_orphans()
