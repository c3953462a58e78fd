"""The workers' share of the application that the main node launches."""

from __future__ import annotations

import math
from dataclasses import replace

from agent.core.errors import TIME_LIMIT, TRY_AGAIN, AgentError
from agent.core.model import AGENT, Outcome
from agent.job.run import LIMIT_HINT, Peers, RunPhase
from agent.job.supervisor import Supervisor
from agent.launch.application import MEMORY_HINT, application_stopped
from agent.multinode.main_side import MainMeeting
from agent.multinode.meeting import (
    GO,
    GO_NAME,
    RELEASE_NAME,
    SIGNAL_NAME,
    SILENT_BEATS,
    STOP_NAME,
)

_SEND_SECONDS = 20.0
# A worker that can't be reached must not delay the others for longer.
_STOP_SECONDS = 3.0


class Workers(Peers):
    """The workers of a job, as the run phase of the main node sees them."""

    def __init__(self, supervisor: Supervisor, run: RunPhase, meeting: MainMeeting) -> None:
        self._supervisor = supervisor
        self._settings = supervisor.settings
        self._run = run
        self._meeting = meeting
        # Until then a worker that has not reported the exit of its ranks is waited for.
        self._wait_until = 0.0
        meeting.on_exited = self._copy_exited

    # -- while the application runs

    def stop(self, reason: AgentError, number: int, grace: float) -> None:
        """Have each worker stop its ranks."""
        if self._meeting.ending or self._settings.launch.launcher == "direct":
            return
        message = {"signal": number, "grace": grace, "error": reason.to_json()}
        self._meeting.announce(GO, STOP_NAME, message, _STOP_SECONDS)
        self._wait_until = self._supervisor.loop.clock() + grace + _STOP_SECONDS

    def forward(self, number: int) -> None:
        """Pass on a signal to what runs on the workers."""
        self._meeting.announce(GO, SIGNAL_NAME, {"signal": number}, _STOP_SECONDS)

    def computing(self) -> bool:
        """Return whether ranks on workers still have the grace period."""
        late = self._supervisor.loop.clock() > self._wait_until
        if self._settings.launch.launcher == "each" or late:
            return False
        return bool(self._meeting.computing())

    def release_launchers(self) -> None:
        """Resume the launcher's daemons on the workers."""
        if self._wait_until:
            self._meeting.announce(GO, RELEASE_NAME, {}, _STOP_SECONDS)

    def started(self) -> None:
        """Act on what workers have reported before the application ran here."""
        for index, outcome in self._meeting.exited.items():
            self._copy_exited(index, outcome)

    def _copy_exited(self, index: int, outcome: Outcome) -> None:
        """End this node's copy of the application when a worker's has failed, as mpirun would."""
        if outcome.code and not self._run.stopping:
            cause = f"its copy on worker {index} exited with {outcome.code}"
            hint = f"see the log of worker {index}"
            self._run.stop(application_stopped(cause, code=outcome.code, hint=hint))

    # -- before and after

    def launch_copies(self) -> None:
        """With the launcher `each`: have every worker start its copy of the application."""
        meeting = self._meeting
        with open(self._settings.path("/tmp/hostfile"), encoding="ascii") as file:
            go = {"hostfile": file.read()}
        meeting.announce(GO, GO_NAME, go)
        self._supervisor.wait(
            "every worker has the launch request", lambda: not meeting.announcing, _SEND_SECONDS
        )
        for index in sorted({node.index for node in meeting.nodes} - meeting.announced):
            cause = meeting.unreached.get(str(index), "no answer in time")
            hint = f"see the log of worker {index}"
            raise AgentError(f"reach worker {index}", cause, code=TRY_AGAIN, hint=hint)

    def outcome_with(self, outcome: Outcome) -> Outcome:
        """Return the outcome of all nodes: a worker that was lost, or whose copy failed, counts."""
        if self._settings.launch.launcher == "each":
            return self._outcome_of_each(outcome)
        if outcome.code and outcome.source != AGENT and not self._supervisor.stop_signal:
            # mpirun also fails when a node is gone; then the node that is lost is the cause. A
            # heartbeat that was on its way when mpirun exited doesn't count.
            beat = self._settings.network.heartbeat
            exited_at = self._supervisor.loop.clock() + beat / 2
            self._supervisor.wait(
                "every worker is alive",
                lambda: self._meeting.seen_since(exited_at),
                (SILENT_BEATS + 2) * beat,
            )
        return outcome

    def _outcome_of_each(self, outcome: Outcome) -> Outcome:
        """Wait for every node's copy of the application; the first that failed decides."""
        settings, exited = self._settings, self._meeting.exited
        if outcome.code and (self._supervisor.verdict.failure or outcome.source != AGENT):
            return outcome
        workers = settings.topology.workers

        def decided() -> bool:
            failed = any(one.code for one in exited.values())
            return failed or all(index in exited for index in workers)

        # Each copy has the same time limit, and then the grace period.
        limit = (
            settings.limits.timeout + settings.limits.grace + _SEND_SECONDS
            if settings.limits.timeout
            else math.inf
        )
        if not self._supervisor.wait("the application exits on every node", decided, limit):
            left = ", ".join(str(index) for index in workers if index not in exited)
            cause, hint = f"its copy on worker {left} did not exit in time", LIMIT_HINT
            raise application_stopped(cause, code=TIME_LIMIT, hint=hint)
        for index, one in exited.items():
            if one.code:
                return replace(one, cause=f"on worker {index} {one.cause}")
        return outcome


def judge_records(supervisor: Supervisor, meeting: MainMeeting) -> None:
    """Judge the job by the workers' records: lost or failed workers, ranks out of memory."""
    verdict, outcome = supervisor.verdict, supervisor.verdict.outcome
    killed = outcome.code == 137 and outcome.source != AGENT and not outcome.out_of_memory
    short = {i: r["out_of_memory"] for i, r in meeting.records.items() if r.get("out_of_memory")}
    if killed and short:
        index = min(short)
        cause = f"ran {short[index]}"
        fields = {"worker": index, "cause": cause, "code": outcome.code, "hint": MEMORY_HINT}
        supervisor.report("worker_out_of_memory", fields)
        verdict.explain(f"worker {index} {cause}", MEMORY_HINT, out_of_memory=True)
    for index in sorted({*meeting.awaited(), *meeting.lost}):
        supervisor.degrade(
            AgentError(
                f"confirm the results of worker {index}",
                "the worker did not report a finished upload",
                code=TRY_AGAIN,
                hint=f"see the log of worker {index}",
            )
        )
    for index, record in sorted(meeting.records.items()):
        if record.get("failure"):
            error = AgentError.from_json(record["failure"])
            what, hint = f"worker {index} failed", error.hint
            supervisor.degrade(
                AgentError(what, str(error), code=error.code, hint=hint, event="worker_failed")
            )
