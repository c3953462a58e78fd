"""Run the job as a worker: run what the main node asks for, upload, hand over the record."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from agent.core import model
from agent.core.errors import AgentError
from agent.core.model import FailureKind
from agent.job.joining import join_main, start_meeting
from agent.job.own_copy import OwnCopy, stop_as_main_does
from agent.job.parts import Parts
from agent.job.ranks import LEAVE_SECONDS, Ranks
from agent.job.ssh_access import SshAccess
from agent.job.stage_in import stage_in
from agent.job.states import State
from agent.launch import cgroup
from agent.launch.application import resolve
from agent.multinode.meeting import LEAVING, LEFT, LIST_END
from agent.multinode.worker_side import WorkerMeeting

_RECORD_SECONDS = 60.0


class Worker:
    """A worker; it exits with the main node's code.

    `stage` replaces a job's own staging: doctor passes another.
    """

    def __init__(
        self, parts: Parts, *, stage: Callable[..., list[dict[str, Any]]] = stage_in
    ) -> None:
        self.parts = parts
        self._supervisor = parts.supervisor
        self._ssh = SshAccess(parts.supervisor)
        self._stage = stage
        self._meeting: WorkerMeeting | None = None
        self._oom_before = 0

    def work(self) -> None:
        """Join, then wait until the main node sends the job's outcome."""
        supervisor, parts = self._supervisor, self.parts
        launcher = supervisor.settings.launch.launcher
        parts.record.fetched = self._stage(supervisor, parts.helpers, self._ssh)
        # Make it executable: mpirun runs it here by path. Any other fault is mpirun's to report.
        with contextlib.suppress(AgentError):
            program = supervisor.settings.command[0]
            resolve(program, supervisor.app_env.get("PATH", os.defpath))
        supervisor.enter(State.JOINING, model.JOIN)
        meeting = self._meeting = start_meeting(parts, self._ssh)
        if launcher in ("auto", "mpirun"):
            supervisor.workload = Ranks(supervisor, meeting)
        meeting.on_signal = supervisor.workload.forward
        meeting.on_stop = partial(stop_as_main_does, supervisor)
        join_main(parts, self._ssh, meeting)
        supervisor.enter(State.RUNNING, model.RUN)
        self._oom_before = cgroup.oom_kills()
        parts.monitor.start(by_mpirun=launcher in ("auto", "mpirun"))
        if launcher == "each":
            supervisor.wait(
                "the main node launches the application",
                lambda: meeting.go or meeting.outcome,
                math.inf,
            )
            if meeting.go:
                OwnCopy(parts, meeting).launch(meeting.go)
        try:
            supervisor.wait("the main node sends the outcome", lambda: meeting.outcome, math.inf)
        except AgentError as error:
            if not supervisor.stop_signal or supervisor.failed(FailureKind.MAIN_LOST):
                raise
            self._leave(meeting, error)
        assert meeting.outcome is not None
        supervisor.verdict.decide(meeting.outcome)

    def _leave(self, meeting: WorkerMeeting, reason: AgentError) -> None:
        """Report that this node was asked to stop, and stay while main stops the application.

        Its ranks here may still write results; a cancelled job stops all nodes at once.
        """
        supervisor = self._supervisor
        supervisor.enter(State.STOPPING)
        meeting.put(LEAVING, reason.to_json())
        if not supervisor.wait(
            "the main node stops the application",
            lambda: meeting.outcome,
            supervisor.settings.limits.grace + LEAVE_SECONDS,
        ):
            raise reason

    def finish(self) -> None:
        """Upload, hand the record over to the main node, wait for the exit code."""
        supervisor, parts, meeting = self._supervisor, self.parts, self._meeting
        parts.monitor.stop()
        if supervisor.failed(FailureKind.FROZEN):
            parts.upload.skip()
            return
        supervisor.enter(State.UPLOADING, model.RELEASE)
        parts.upload.begin()
        supervisor.begin_phase(model.UPLOAD)
        uploaded = parts.upload.finish()
        if meeting is None or not meeting.joined:
            return
        supervisor.enter(State.COLLECTING)
        try:
            self._hand_over(meeting, uploaded)
        except AgentError as error:
            # Cut off from the main node and its exit code: this node's first failure decides.
            if supervisor.failed(FailureKind.FROZEN) or not supervisor.verdict.code:
                supervisor.verdict.abort(error)
        finally:
            meeting.close()
        if meeting.final is not None:
            supervisor.verdict.decide(meeting.final)

    def _hand_over(self, meeting: WorkerMeeting, uploaded: dict[str, Any]) -> None:
        supervisor = self._supervisor
        failure = supervisor.verdict.failure
        record: dict[str, Any] = {
            "index": supervisor.node.index,
            "record": self.parts.record.of_node(uploaded),
            "failure": failure.to_json() if failure is not None else None,
            # The main node can't see it in what it launches here: mpirun only reports 137.
            "out_of_memory": cgroup.out_of_memory(self._oom_before),
        }
        record["record"]["file_count"] = uploaded["count"]
        if uploaded["count"]:
            listed = meeting.put_file(LEFT, LIST_END, self.parts.upload.stored_list)
            # It may be long; the link sends heartbeats meanwhile.
            supervisor.wait("the main node has the list of this node's results", listed, math.inf)
        arrived = meeting.put(LEFT, record)
        supervisor.wait("the main node has this node's record", arrived, _RECORD_SECONDS)
        if meeting.outcome:  # else this node is not waited for; others may upload for hours
            supervisor.wait("the main node sends the exit code", lambda: meeting.final, math.inf)
