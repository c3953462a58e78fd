"""Run a worker's own copy of the application, with the launcher `each`."""

from __future__ import annotations

from typing import Any

from agent.core.errors import AgentError
from agent.core.model import Outcome
from agent.job.parts import Parts
from agent.job.run import Peers
from agent.job.supervisor import Supervisor
from agent.launch.application import application_stopped
from agent.multinode.meeting import ENDED
from agent.multinode.worker_side import WorkerMeeting

_REPORT_SECONDS = 60.0


class OwnCopy(Peers):
    """The copy of one worker; it is stopped when the main node ends the job."""

    def __init__(self, parts: Parts, meeting: WorkerMeeting) -> None:
        self._parts = parts
        self._supervisor = parts.supervisor
        self._meeting = meeting
        parts.run.peers = self
        meeting.on_outcome = self._main_ended

    def launch(self, go: dict[str, Any]) -> None:
        """Launch it when the main node asks for it, and report how it exited."""
        meeting, supervisor = self._meeting, self._supervisor
        self._parts.hostfiles.write_text("/tmp/hostfile", go["hostfile"])
        outcome = self._parts.run.launch(supervisor.settings.limits.timeout)
        arrived = meeting.put(ENDED, outcome.to_json())
        supervisor.wait(
            "the main node has this copy's exit code",
            lambda: arrived() or meeting.outcome,
            _REPORT_SECONDS,
        )

    def started(self) -> None:
        """Act on what the main node has sent before the application ran here."""
        if self._meeting.stop is not None:
            stop_as_main_does(self._supervisor, self._meeting.stop)
        if self._meeting.outcome is not None:
            self._main_ended(self._meeting.outcome)

    def _main_ended(self, outcome: Outcome) -> None:
        """Stop the copy: the job is over."""
        if not self._parts.run.stopping:
            cause, hint = "the main node ended the job", "see the log of the main node"
            code = outcome.code or 143
            self._parts.run.stop(application_stopped(cause, code=code, hint=hint))


def stop_as_main_does(supervisor: Supervisor, message: dict[str, Any]) -> None:
    """Stop what runs here with the main node's signal, in what is left of its grace period."""
    if not supervisor.workload.stopping:
        reason = AgentError.from_json(message["error"])
        supervisor.workload.stop(reason, int(message["signal"]), float(message["grace"]))
