"""Walk one node through the phases of a job: waits, signals, helpers, the first failure, the end.

    stage in --> meet --> run --> release --> stage out --> exit code

A failure in any phase still walks the rest of the way; the first one decides the exit code. What
each role does in a phase is in `job`; this is what all roles share.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from agent.core.deadlines import LOST_GRACE_SECONDS, MAX_GRACE_SECONDS, STOP_SECONDS
from agent.core.errors import (
    BUG,
    CANNOT_WRITE,
    OS_ERROR,
    TRY_AGAIN,
    AgentError,
    HelperDied,
    as_agent_error,
    os_reason,
)
from agent.core.model import AGENT, Outcome, Span
from agent.core.settings import Settings
from agent.engine.helpers import Helper
from agent.engine.log import Log
from agent.engine.loop import Loop
from agent.engine.process import Child
from agent.job.directories import RuntimeDirectory
from agent.job.exit_code_file import put_exit_code
from agent.launch.application import Application
from agent.multinode.sshd import Sshd

if TYPE_CHECKING:
    from agent.multinode.heartbeat_link import HeartbeatLink

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_CLEANUP_SECONDS = 2.0
_SECOND_TRY_SECONDS = 2.0


class Supervisor:
    """One node's run.

    `failure` is the first thing that went wrong on the agent's side; `told` says that the one line
    with the job's cause is in the log, which may also be the application's own end. Children whose
    pid is in `spared` outlive the job.
    """

    def __init__(self, settings: Settings, loop: Loop, log: Log) -> None:
        self.settings = settings
        self.loop = loop
        self.log = log
        self.failure: AgentError | None = None
        self.failure_logged = False
        self.application: Application | None = None
        self.sshd: Sshd | None = None
        self.spans: list[Span] = []
        self.own_pids: set[int] = set()
        self.shielded = False
        self.ending = 0
        self.last_moment: float | None = None
        self._tracked: list[Helper | HeartbeatLink] = []
        self.spared: set[int] = set()
        self._directory = RuntimeDirectory(settings.runtime_dir)
        loop.on_signal = self._signal
        loop.on_child = self._child

    # -- phases and waits

    def enter(self, phase: str) -> None:
        """Begin a phase; the one before it ends."""
        if self.spans and self.spans[-1].phase == phase:
            return
        now = self.loop.clock()
        if self.spans:
            self.spans[-1].end = now
        self.spans.append(Span(phase, now))
        self.log.context["phase"] = phase
        self.log.info("phase_started")

    def wait(
        self,
        what: str,
        done: Callable[[], object],
        seconds: float,
        missing: Callable[[], object] = lambda: None,
    ) -> bool:
        """Wait for something, at most so long; raise the failure that comes meanwhile.

        Without a bound (`math.inf`) only for another node that is lost when it falls silent.
        """
        start = self.loop.clock()
        deadline = start + seconds
        if self.last_moment is not None:
            deadline = min(deadline, self.last_moment)
        bound = None if deadline == math.inf else round(deadline - start, 1)
        limit = {"bounded_by": "heartbeats"} if bound is None else {"max_seconds": bound}
        self.log.info("wait_started", what=what, **limit)
        self.loop.wait(lambda: done() or self._must_stop() or self._too_late(), deadline)
        finished = bool(done())
        took = round(self.loop.clock() - start, 3)
        if self._must_stop():
            self.log.info("wait_aborted", what=what, seconds=took, missing=missing())
            assert self.failure is not None
            raise self.failure
        event = "wait_finished" if finished else "wait_timed_out"
        self.log.info(event, what=what, seconds=took, missing=missing())
        return finished

    def _too_late(self) -> bool:
        """Tell whether the time that the platform leaves after a signal is over."""
        return self.last_moment is not None and self.loop.clock() >= self.last_moment

    @property
    def hurried(self) -> bool:
        """Tell whether there is no time to do anything twice."""
        left = self.last_moment - self.loop.clock() if self.last_moment is not None else math.inf
        return bool(self.ending) or left < _SECOND_TRY_SECONDS

    def _must_stop(self) -> bool:
        return self.failure is not None and not self.shielded

    def fail(self, error: AgentError) -> None:
        """Note a failure; the first one decides, and ends the application if it runs."""
        self.log_failure(error.event, **error.fields())
        if self.failure is None:
            self.failure = error
            if not self.stopping:
                # mpirun waits in vain for the daemon of a node that is gone.
                max_grace = LOST_GRACE_SECONDS if error.code == TRY_AGAIN else MAX_GRACE_SECONDS
                self.stop(error, max_grace=max_grace)

    def stop(
        self, reason: AgentError, number: int = signal.SIGTERM, max_grace: float = math.inf
    ) -> None:
        """Stop what of the application runs on this node; asked again, end it now.

        `most` bounds the grace period, in seconds.
        """
        if self.application is not None:
            self.application.stop(reason, number, max_grace)

    def forward(self, number: int) -> None:
        """Pass on a signal that doesn't end the job."""
        if self.application is not None:
            self.application.forward(number)

    @property
    def stopping(self) -> bool:
        """Tell whether the application is being stopped, or was."""
        return self.application is not None and self.application.stopped_for is not None

    def log_failure(self, event: str, /, **fields: object) -> None:
        """Log what failed: the first failure as an error, what follows from it as a warning."""
        level, self.failure_logged = "warning" if self.failure_logged else "error", True
        self.log.at(level, event, fields)

    def bug(self, error: Exception) -> None:
        """Note an exception that nobody expected: the job ends with 70, and its end is walked."""
        import traceback

        self.log.error("internal_error", traceback="".join(traceback.format_exception(error)))
        self.fail(as_agent_error(error))

    # -- helpers

    def start_helper(
        self, task: str, request: dict[str, Any], on_message: Callable[[dict[str, Any]], None]
    ) -> Helper:
        """Start a helper process; it is ended with the job.

        Only those that reach S3 are given its credentials.
        """
        env = self.settings.helper_env
        if not task.startswith("stage_"):
            env = {name: value for name, value in env.items() if not name.startswith("AWS_")}
        try:
            helper = self.helper(env, task)
            helper.begin(task, request, on_message)
        except OSError as error:
            hint = "raise this container's limit of open files (ulimit -n)"
            raise AgentError(f"start {task}", os_reason(error), code=OS_ERROR, hint=hint) from error
        self.track(helper)
        return helper

    def helper(self, env: dict[str, str], task: str) -> Helper:
        """Return a process for a task."""
        return Helper(self.loop, env, task)

    def track(self, process: Helper | HeartbeatLink) -> None:
        """Count a process as the agent's own; it is ended with the job."""
        self._tracked.append(process)
        self.own_pids.add(process.child.pid)

    def call(
        self, task: str, what: str, request: dict[str, Any], seconds: float, code: int
    ) -> dict[str, Any]:
        """Run a helper and return its result; one that dies or hangs is tried once more.

        `code` is the phase's own, for when that doesn't help.
        """
        for again in (True, False):
            helper = self.start_helper(task, request, self.on_message)
            try:
                if not self.wait(what, partial(_is_done, helper), seconds):
                    cause = f"not done after {seconds:g} s"
                    raise HelperDied(what, cause, code=code, hint="look at the network")
                return helper.outcome()
            except AgentError as error:
                if error.code == BUG and helper.stderr_tail:
                    self.log.error("internal_error", traceback=helper.stderr_tail)
                if not isinstance(error, HelperDied):
                    raise
                if not again or self.hurried:
                    raise AgentError(what, error.cause, code=code, hint=error.hint) from error
                self.log.warning("helper_retried", what=what, cause=error.cause)
                self._clear_away(helper)
            finally:
                helper.close()
        raise AssertionError("unreachable")

    def _clear_away(self, helper: Helper) -> None:
        """End a helper and what it leaves: its 7-Zip or dpkg would be in the way of the next one's.

        Whoever waits for a helper in `call` has no application yet, and no session of sshd's.
        """
        helper.close()
        self.loop.wait(lambda: not helper.child.running, self.loop.clock() + _CLEANUP_SECONDS)
        self.loop.children.end_orphans()

    def on_message(self, message: dict[str, Any]) -> None:
        """Log what a helper tells; a phase that it names begins."""
        if "phase" in message:
            self.enter(message["phase"])
            return
        level = message.pop("log", "info")
        self.log.at(level, str(message.pop("event", "helper_message")), message)

    # -- signals and children

    def _signal(self, number: int) -> None:
        if number not in _ENDING:
            self.forward(number)
            return
        name = signal.Signals(number).name
        phase = self.spans[-1].phase if self.spans else ""
        self.log.warning("signal_received", signal=name, phase_now=phase)
        error = AgentError(
            "job stopped",
            f"received {name}",
            code=128 + number,
            hint="check for a job timeout, a cancelled job or `docker stop`",
            event="job_stopped",
        )
        first = not self.ending
        self.ending = self.ending or number
        if first:
            stop = self.loop.clock() + STOP_SECONDS
            self.last_moment = min(stop, self.last_moment or stop)
            self.loop.call_at(self.last_moment, lambda: None)
        # The application hears the signal that the agent heard; a second one means now.
        self.stop(error, number, max_grace=MAX_GRACE_SECONDS)
        if first:
            self.fail(error)

    def _child(self, child: Child) -> None:
        if child.running:
            if self.stopping:
                return  # held by the agent itself, for a moment
            self.log.warning(
                "process_stopped",
                process=child.name,
                signal=child.stopped_by,
                hint="kill -CONT",
            )
            return
        self.own_pids.discard(child.pid)
        if self.application is not None:
            self.application.child_ended(child)
        if self.sshd is not None and child is self.sshd.child:
            self.sshd.child_ended()

    def sshd_failed(self, error: AgentError) -> None:
        """Note that sshd can't be kept running; when results go up none is needed."""
        if not self.shielded:
            self.fail(error)

    # -- the agent's own directory

    def prepare(self) -> None:
        """Make the runtime directory, and make sure that no other agent runs a job here."""
        self._directory.take()

    def cleanup(self) -> None:
        """Leave no process, no key and no decrypted file behind."""
        for process in self._tracked:
            process.close()
        if self.sshd is not None:
            self.sshd.close()
        children = self.loop.children

        def left() -> list[Child]:
            return [child for child in children.running if child.pid not in self.spared]

        for child in left():
            child.kill_group(signal.SIGKILL)
        self.loop.wait(lambda: not left(), self.loop.clock() + _CLEANUP_SECONDS)
        children.end_orphans()
        more = [self.settings.path("/opt/.architrave-incoming")]
        if self.settings.topology.count > 1:
            more.append(self.settings.path("/tmp/batch"))
        self._directory.remove(more)

    # -- the end

    def outcome_of(self, error: AgentError) -> Outcome:
        """Return the outcome that a failure of the agent's own makes."""
        return Outcome(error.code, AGENT, cause=str(error), hint=error.hint)

    @property
    def is_only_agent(self) -> bool:
        """Tell whether this agent is the one that runs a job here, not a second one."""
        return not self._directory.taken

    def write_exit_code(self, code: int) -> None:
        """Put the exit code where a surrounding program looks for it."""
        path = self.settings.exit_code_file
        if cause := put_exit_code(path, code):
            self.log.warning("exit_code_not_written", path=path, cause=cause, code=CANNOT_WRITE)


def _is_done(helper: Helper) -> bool:
    return helper.done
