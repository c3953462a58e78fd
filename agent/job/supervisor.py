"""Supervise one node: its state, waits, failures, signals and children.

The components (`helper_calls`, `monitor`, `run`, `upload`, `record`) do the work of each phase; the
roles (`single`, `main_node`, `worker`) say which of them, and in which order.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Protocol

from agent.core.deadlines import LOST_GRACE_SECONDS, MAX_GRACE_SECONDS, STOP_SECONDS
from agent.core.errors import TRY_AGAIN, AgentError, as_agent_error
from agent.core.model import FailureKind, Node, Span
from agent.core.settings import Settings
from agent.engine.log import Log
from agent.engine.loop import Loop
from agent.engine.process import Child
from agent.job.directories import RuntimeDirectory
from agent.job.own_processes import OwnProcesses
from agent.job.states import ABORTS, NEXT, State
from agent.job.verdict import Verdict

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_SECOND_TRY_SECONDS = 2.0


class Workload(Protocol):
    """What runs of the application on this node."""

    @property
    def stopping(self) -> bool:
        """Return whether it is being stopped, or was."""
        ...

    def stop(
        self, reason: AgentError, number: int = signal.SIGTERM, max_grace: float = math.inf
    ) -> None:
        """Stop it, with a grace period of at most `max_grace` seconds; a second call kills it."""
        ...

    def forward(self, number: int) -> None:
        """Pass on a signal that doesn't stop the job."""
        ...

    def finish(self) -> None:
        """Stop what still runs: the job is over."""
        ...


class NoWorkload:
    """The workload of a node on which nothing has started yet."""

    stopping = False

    def stop(
        self, reason: AgentError, number: int = signal.SIGTERM, max_grace: float = math.inf
    ) -> None:
        """Do nothing."""

    def forward(self, number: int) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


class Supervisor:
    """One node's run. Children whose pid is in `spared` outlive the job.

    `deadline` is when the platform will kill the container, None as long as that is not known;
    `stop_signal` is the signal that stopped this node, 0 if none did. `node` and `app_env` are
    filled in while the job is staged: the node's address, and what deps.tar.gz has brought.
    """

    def __init__(
        self,
        settings: Settings,
        loop: Loop,
        log: Log,
        *,
        deadline: float | None = None,
        spared: Collection[int] = (),
    ) -> None:
        self.settings = settings
        self.loop = loop
        self.log = log
        self.verdict = Verdict()
        self.state = State.STAGING
        self.spans: list[Span] = []
        self.node = Node(0, "", 1)
        self.app_env = settings.app_env
        self.workload: Workload = NoWorkload()
        self.processes = OwnProcesses(loop, spared)
        self.deadline = deadline
        self.stop_signal = 0
        self.directory = RuntimeDirectory(settings.runtime_dir)
        self._failures: dict[FailureKind, AgentError] = {}
        loop.on_signal = self._signal
        loop.on_child = self._child

    # -- state and phases

    def enter(self, state: State, phase: str = "") -> None:
        """Go on to a state, and to a phase of the record if one begins with it."""
        if state is not self.state:
            assert state in NEXT[self.state], f"{self.state} -> {state}"
            self.state = state
        if phase:
            self.begin_phase(phase)

    def begin_phase(self, phase: str) -> None:
        """Begin a phase; the one before it ends."""
        if self.spans and self.spans[-1].phase == phase:
            return
        now = self.loop.clock()
        if self.spans:
            self.spans[-1].end = now
        self.spans.append(Span(phase, now))
        self.log.context["phase"] = phase
        self.log.info("phase_started")

    # -- waits

    def wait(
        self,
        what: str,
        done: Callable[[], object],
        seconds: float,
        missing: Callable[[], object] = lambda: None,
    ) -> bool:
        """Wait for a condition, at most so long; raise the failure that aborts waits in this state.

        `math.inf` is allowed only where another node is waited for: heartbeats bound that wait.
        """
        return self.wait_steps(what, (done,), seconds, missing)

    def wait_steps(
        self,
        what: str,
        steps: Iterable[Callable[[], object]],
        seconds: float,
        missing: Callable[[], object] = lambda: None,
    ) -> bool:
        """Wait for each condition that `steps` yields; the generator does its work between them.

        Conditions have no side effects. Raises what `wait` raises, and what a step does.
        """
        start = self.loop.clock()
        until = start + seconds
        if self.deadline is not None:
            until = min(until, self.deadline)
        bound = None if until == math.inf else round(until - start, 1)
        limit = {"bounded_by": "heartbeats"} if bound is None else {"max_seconds": bound}
        self.log.info("wait_started", what=what, **limit)
        try:
            finished = self._all(iter(steps), until)
        except AgentError:
            self._log_wait("wait_aborted", what, start, missing)
            raise
        self._log_wait("wait_finished" if finished else "wait_timed_out", what, start, missing)
        return finished

    def _all(self, steps: Iterator[Callable[[], object]], until: float) -> bool:
        for done in steps:

            def over(done: Callable[[], object] = done) -> object:
                return done() or self._aborting() or self._too_late()

            self.loop.wait(over, until)
            finished = bool(done())
            if error := self._aborting():
                raise error
            if not finished:
                return False
        return True

    def _log_wait(self, event: str, what: str, start: float, missing: Callable[[], object]) -> None:
        took = round(self.loop.clock() - start, 3)
        self.log.info(event, what=what, seconds=took, missing=missing())

    def _aborting(self) -> AgentError | None:
        """Return the failure that aborts a wait in this state."""
        aborts = ABORTS[self.state]
        return next((error for kind, error in self._failures.items() if kind in aborts), None)

    def _too_late(self) -> bool:
        return self.deadline is not None and self.loop.clock() >= self.deadline

    @property
    def hurried(self) -> bool:
        """Return whether there is too little time left for a retry."""
        left = self.deadline - self.loop.clock() if self.deadline is not None else math.inf
        return bool(self.stop_signal) or left < _SECOND_TRY_SECONDS

    # -- failures

    def fail(self, error: AgentError, kind: FailureKind = FailureKind.OTHER) -> None:
        """Note a failure; the first one decides, and stops the application if it runs."""
        self._failures.setdefault(kind, error)
        self.report(error.event, error.fields())
        if self.verdict.fail(error) and not self.workload.stopping:
            # mpirun waits in vain for the daemon of a node that is gone.
            lost = error.code == TRY_AGAIN
            max_grace = LOST_GRACE_SECONDS if lost else MAX_GRACE_SECONDS
            self.workload.stop(error, max_grace=max_grace)

    def degrade(self, error: AgentError) -> None:
        """Note a failure after the application has exited: it counts if nothing failed before."""
        self.fail(error)
        self.verdict.degrade(error)

    def failed(self, kind: FailureKind) -> bool:
        """Return whether there was a failure of this kind."""
        return kind in self._failures

    def noted(self, error: AgentError) -> bool:
        """Return whether this very failure was noted already: a wait has raised it."""
        return any(error is one for one in self._failures.values())

    def report(self, event: str, fields: dict[str, object]) -> None:
        """Log what failed: one error names the job's cause, what follows from it is a warning."""
        level, self.verdict.reported = "warning" if self.verdict.reported else "error", True
        self.log.at(level, event, fields)

    def bug(self, error: Exception) -> AgentError:
        """Log an unexpected exception; return it as a failure (70)."""
        import traceback

        self.log.error("internal_error", traceback="".join(traceback.format_exception(error)))
        return as_agent_error(error)

    # -- signals and children

    def _signal(self, number: int) -> None:
        if number not in ENDING_SIGNALS:
            self.workload.forward(number)
            return
        name, sender = signal.Signals(number).name, self.loop.sender
        self.log.warning(
            "signal_received", signal=name, sender=sender or None, state=self.state.value
        )
        error = AgentError(
            "job stopped",
            f"received {name}{f' from {sender}' if sender else ''}",
            code=128 + number,
            hint="check for a job timeout, a cancelled job or `docker stop`",
            event="job_stopped",
        )
        first = not self.stop_signal
        self.stop_signal = self.stop_signal or number
        if first:
            stop = self.loop.clock() + STOP_SECONDS
            self.deadline = min(stop, self.deadline or stop)
            self.loop.call_at(self.deadline, lambda: None)
            self.loop.hurried_since = self.loop.clock()
        # The application gets the signal that the agent got; a second one kills it.
        self.workload.stop(error, number, max_grace=MAX_GRACE_SECONDS)
        if first:
            self.fail(error, FailureKind.SIGNAL)

    def _child(self, child: Child) -> None:
        if child.running:
            if not self.workload.stopping:  # while stopping, the agent itself sends SIGSTOP
                self.log.warning(
                    "process_stopped",
                    process=child.name,
                    signal=child.stopped_by,
                    hint=f"resume it: kill -CONT {child.pid}",
                )
            return
        self.processes.child_exited(child)

    def cleanup(self) -> None:
        """Leave no process, no key and no decrypted file behind."""
        self.processes.end()
        more = [self.settings.path("/opt/.architrave-incoming")]
        if self.settings.topology.count > 1:
            more.append(self.settings.path("/tmp/batch"))
        self.directory.remove(more)
