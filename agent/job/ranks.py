"""The ranks that the main node's launcher runs on a worker, which the worker did not start."""

from __future__ import annotations

import math
import signal

from agent.core.deadlines import LOST_GRACE_SECONDS
from agent.core.errors import AgentError
from agent.core.model import FailureKind
from agent.job.supervisor import Supervisor
from agent.launch.application import application_stopped
from agent.launch.stopping import Stopping
from agent.multinode.meeting import STOPPED
from agent.multinode.worker_side import WorkerMeeting

# From the end of the grace period: until the main node knows, and mpirun's daemon has exited.
LEAVE_SECONDS = 4.0


class Ranks:
    """The ranks on this worker, as its supervisor sees them."""

    def __init__(self, supervisor: Supervisor, meeting: WorkerMeeting) -> None:
        self._supervisor = supervisor
        self._meeting = meeting
        self._stopping: Stopping | None = None

    @property
    def stopping(self) -> bool:
        """Return whether they are being stopped, or were."""
        return self._stopping is not None

    def stop(
        self, reason: AgentError, number: int = signal.SIGTERM, max_grace: float = math.inf
    ) -> None:
        """Stop them, and report to the main node when nothing computes here any more."""
        supervisor, meeting = self._supervisor, self._meeting
        if self._stopping is not None:
            self._stopping.kill()
            return
        if not meeting.joined:
            return
        grace = min(supervisor.settings.limits.grace, max_grace)
        supervisor.log.info(
            "application_stopping", signal=number, grace_seconds=grace, cause=reason.cause
        )
        self._stopping = Stopping(
            supervisor.loop,
            supervisor.log,
            supervisor.processes.pids,
            elsewhere=lambda: (
                not (
                    meeting.released or meeting.outcome or supervisor.failed(FailureKind.MAIN_LOST)
                )
            ),
            on_quiet=self._report_quiet,
        )
        self._stopping.begin(number, grace)

    def _report_quiet(self) -> None:
        self._meeting.put(STOPPED, {})

    def forward(self, number: int) -> None:
        """Pass on a signal that the main node received."""
        supervisor = self._supervisor
        Stopping(supervisor.loop, supervisor.log, supervisor.processes.pids).forward(number)

    def finish(self) -> None:
        """Stop what still runs here."""
        if not self._meeting.joined:
            return
        if self._stopping is None:
            reason = application_stopped("the main node ended the job", code=143)
            self.stop(reason, max_grace=LOST_GRACE_SECONDS)
        stopping, supervisor = self._stopping, self._supervisor
        assert stopping is not None
        bound = supervisor.settings.limits.grace + LEAVE_SECONDS
        supervisor.loop.wait(lambda: stopping.over, supervisor.loop.clock() + bound)
        stopping.cancel()
