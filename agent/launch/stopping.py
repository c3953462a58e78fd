"""Stop the application on this node: one signal to each process, the grace period, SIGKILL.

The application is all of its processes. A launcher among them is stopped (SIGSTOP) first and gets
its signal last, when nothing computes any more on any node: mpirun kills the ranks of all nodes
one second after a SIGTERM, and as soon as one of them has exited (Open MPI's
odls_base_sigkill_timeout; PRRTE's has the same name). The ranks' output passes through
the launcher, so it is resumed (SIGCONT) for short turns while the ranks are stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.launch import process_tree, streams

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from agent.engine.log import Log
    from agent.engine.loop import Loop, Timer
    from agent.launch.process_tree import Process
if not TYPE_CHECKING:
    import _signal as signal  # the public one imports enum, a fifth of a start
else:
    import signal

_LOOK_SECONDS = 0.05
_SERVE_SECONDS, _TURN_SECONDS = 0.1, 0.01
# mpirun stops its daemons and exits within this, when nothing is left to run.
_LAUNCHER_SECONDS, _KILLED_LAUNCHER_SECONDS = 3.0, 1.0


class Stopping:
    """Stops the application on one node.

    `quiet`: nothing computes here any more. `over`: launchers have exited too, or were killed.
    `killed_at` is when SIGKILL was sent, 0 before. `elsewhere` returns whether the launchers must
    stay held for the sake of other nodes; `on_quiet` is called when nothing computes here any more,
    `on_release` before the launchers are resumed.
    """

    def __init__(
        self,
        loop: Loop,
        log: Log,
        own: Collection[int],
        *,
        elsewhere: Callable[[], bool] = lambda: False,
        on_quiet: Callable[[], None] = lambda: None,
        on_release: Callable[[], None] = lambda: None,
    ) -> None:
        self.quiet = self.over = False
        self.killed_at = 0.0
        self._loop = loop
        self._log = log
        self._own = own
        self._elsewhere = elsewhere
        self._on_quiet = on_quiet
        self._on_release = on_release
        self._released_at: float | None = None
        self._served_at = loop.clock()
        self._timers: list[Timer] = []
        self._number = 0
        # What reads the output of another process: it gets the signal when that one has exited.
        self._deferred: set[int] = set()
        self._dropped = False

    def begin(self, number: int, grace: float) -> None:
        """Send the signal to each process; SIGKILL comes after `grace` seconds."""
        found = process_tree.pause(self._find)
        ranks = process_tree.computing(found)
        self._number = number
        self._deferred = {one.pid for one in streams.readers(ranks)}
        for process in ranks:
            if process.pid not in self._deferred:
                process_tree.send(process, number)
        process_tree.resume(ranks)
        self._timers = [
            self._loop.every(_LOOK_SECONDS, self._look),
            self._loop.call_at(self._loop.clock() + grace, self.kill),
        ]
        self._look()

    def forward(self, number: int) -> bool:
        """Send another signal to what a launcher runs here; return whether there is a launcher."""
        found = self._find()
        launched = any(one.launcher for one in found)
        for process in process_tree.computing(found) if launched else ():
            process_tree.send(process, number)
        return launched

    def kill(self) -> None:
        """Kill what still computes; launchers are resumed after that."""
        if self.killed_at or self.over:
            return
        left = process_tree.computing(process_tree.pause(self._find))
        if left:
            names = [one.name for one in left][:8]
            self._log.warning("application_killed", processes=names)
        self.killed_at = self._loop.clock()
        for process in left:
            process_tree.send(process, signal.SIGKILL)

    def cancel(self) -> None:
        """Stop looking; resume what is held."""
        for timer in self._timers:
            timer.cancel()
        process_tree.resume(self._find())

    def _find(self) -> list[Process]:
        return process_tree.application(self._own)

    def _look(self) -> None:
        """See what is left: serve the launchers, release them, or kill them."""
        if self.over:
            return
        found = self._find()
        left = process_tree.computing(found)
        if self._released_at is not None:
            self._await_launchers(found)
        elif left:
            self._signal_readers(left)
            self._serve(found)
        else:
            if not self.quiet:
                self.quiet = True
                self._on_quiet()
            if not self._elsewhere():
                self._release(found)

    def _signal_readers(self, left: list[Process]) -> None:
        """Send the signal to what has nothing left to read; usually it exits by itself then."""
        if self._deferred:
            waiting = {one.pid for one in streams.readers(left)}
            for process in left:
                if process.pid in self._deferred - waiting:
                    self._deferred.discard(process.pid)
                    process_tree.send(process, self._number)

    def _release(self, found: list[Process]) -> None:
        """Resume the launchers: they find their ranks gone, and start no others."""
        self._released_at = self._loop.clock()
        self._on_release()
        launchers = [one for one in found if not one.exited]
        for process in launchers:
            if process.starter:
                process_tree.send(process, signal.SIGTERM)
        process_tree.resume(launchers)
        self._await_launchers(found)

    def _await_launchers(self, found: list[Process]) -> None:
        left = [one for one in found if not one.exited]
        limit = _KILLED_LAUNCHER_SECONDS if self.killed_at else _LAUNCHER_SECONDS
        late = self._loop.clock() - (self._released_at or 0.0) > limit
        if late:
            for process in left:
                process_tree.send(process, signal.SIGKILL)
        if not left or late:
            self.over = True
            for timer in self._timers:
                timer.cancel()

    def _serve(self, found: list[Process]) -> None:
        """Resume the launchers for a moment to pass on output, while the ranks are stopped.

        Not when one has exited: the launcher would see it, and kill the others. What they can't
        write then is dropped.
        """
        launchers = [one for one in found if one.launcher and not one.exited]
        now = self._loop.clock()
        if not launchers or now - self._served_at < _SERVE_SECONDS:
            return
        self._served_at = now
        by_launcher = {one.pid for one in launchers}
        held = process_tree.pause(self._find)
        if not any(one.exited and one.parent in by_launcher for one in held):
            process_tree.resume(launchers)
            self._loop.call_at(now + _TURN_SECONDS, self._finish_turn)
        else:
            left = process_tree.computing(held)
            if streams.make_room(left) and not self._dropped:
                self._dropped = True
                self._log.warning("rank_output_dropped")
            process_tree.resume(left)

    def _finish_turn(self) -> None:
        if self._released_at is None:
            found = process_tree.pause(self._find)
            process_tree.resume(process_tree.computing(found))
