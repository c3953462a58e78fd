"""Take part in the job as a worker: be there for the main node, then hand over the results."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from agent.core import model
from agent.core.deadlines import LOST_GRACE_SECONDS
from agent.core.errors import TRY_AGAIN, AgentError
from agent.core.model import Node, Outcome
from agent.job.directories import make_directory
from agent.job.single import Job
from agent.launch import cgroup
from agent.launch.application import resolve
from agent.launch.stopping import Stopping
from agent.multinode.heartbeat_link import HeartbeatLink
from agent.multinode.meeting import ENDED, LEAVING, LEFT, LIST_END, STOPPED
from agent.multinode.worker_side import WorkerMeeting

_RECORD_SECONDS = 60.0
_LEAVE_SECONDS = 4.0


class Worker(Job):
    """A worker ends with the main node's exit code."""

    meeting: WorkerMeeting | None = None
    _oom_before = 0
    # The end of what the main node's launcher runs here.
    _ranks: Stopping | None = None

    def work(self) -> Outcome:
        """Join, then wait until the main node says how the job has ended."""
        self.log.open()
        self.prepare()
        self.stage_in()
        # mpirun starts it here by its path; where it lacks more than the mode, mpirun says what.
        with contextlib.suppress(AgentError):
            resolve(self.settings.command[0], self.app_env().get("PATH", os.defpath))
        self.meet()
        meeting = self.meeting
        assert meeting is not None
        self.enter(model.RUN)
        self._oom_before = cgroup.oom_kills()
        self.sample(by_mpirun=self._has_ranks)
        if self.settings.launcher == "each":
            self.wait("main launches", lambda: meeting.go or meeting.outcome, math.inf)
            if meeting.go:
                self._run_own_copy(meeting)
        try:
            self.wait("main tells the end", lambda: meeting.outcome, math.inf)
        except AgentError:
            if not self.ending or meeting.main_lost:
                raise
            self._leave(meeting)
        assert meeting.outcome is not None
        return meeting.outcome

    def _leave(self, meeting: WorkerMeeting) -> None:
        """Say that this node is told to end, and stay while main ends the application.

        Its ranks here may still write results; a cancelled job tells all nodes at once.
        """
        assert self.failure is not None
        self.shielded = True
        meeting.put(LEAVING, self.failure.to_json())
        self.wait(
            "main ends the application",
            lambda: meeting.outcome or meeting.main_lost,
            self.settings.grace + _LEAVE_SECONDS,
        )
        if meeting.outcome is None:
            raise self.failure

    def meet(self) -> None:
        """Start sshd first, then join: who is ready can be reached."""
        self.enter(model.JOIN)
        settings = self.settings
        # What can't be found is said before anybody waits.
        once = ("-o", "ConnectionAttempts=1")
        line = [*self.sftp, *once, "-s", settings.topology.main_address, "sftp"]
        ssh = self.open_sshd()
        meeting = WorkerMeeting(
            self.loop,
            self.log,
            settings.topology,
            self.batch,
            settings.heartbeat,
            ssh,
            self.start_helper,
            self.fail,
            node={"index": self.node.index, "address": self.node.address, "slots": self.node.slots}
            | {"version": self.node.version},
            output_dir=self.output_dir,
            start_heartbeat_link=partial(self._start_heartbeat_link, line),
        )
        self.meeting = meeting
        self.keep_paths()
        meeting.on_outcome = self._main_ended
        meeting.on_stop = self._main_stops
        meeting.on_signal = self.forward
        meeting.watch()
        # Before main may launch: mpirun's ranks begin in main's working directory on every node,
        # and what they write from then on is a result.
        if settings.workdir:
            make_directory(settings.workdir, "ARCHITRAVE_WORKDIR")
        self.look_before()
        self.wait_for_sshd()
        meeting.join(settings.join_timeout)

        def joined() -> bool:
            if not meeting.joined:
                meeting.check()
            return meeting.joined

        # The helper has the deadline and knows the cause; a second more lets it tell.
        if not self.wait("joining the main node", joined, settings.join_timeout + 1):
            raise AgentError(
                f"join {settings.topology.main_address}",
                "no answer in time",
                code=TRY_AGAIN,
                hint="look at the main node's log",
            )
        self.owner = meeting.owner
        if self.shares:
            self.log.info("output_directory_shared", owner=self.owner)
        self.node = Node(self.node.index, meeting.address, self.node.slots, self.node.version)

    def cleanup(self) -> None:
        """Leave nothing behind, nor a claim of a node that was ended while it joined."""
        if self.meeting is not None:
            self.token = self.meeting.token
        super().cleanup()

    def _start_heartbeat_link(
        self, command: list[str], on_message: Callable[[dict[str, Any]], None]
    ) -> HeartbeatLink:
        heartbeat_link = HeartbeatLink(self.loop, command, self.app_env(), on_message)
        self.track(heartbeat_link)
        return heartbeat_link

    # -- the end of the application's processes here

    @property
    def _has_ranks(self) -> bool:
        """Tell whether it is main's launcher that runs processes here."""
        return self.settings.launcher in ("auto", "mpirun")

    @property
    def stopping(self) -> bool:
        """Tell whether what runs here is being stopped, or was."""
        return super().stopping or self._ranks is not None

    def stop(
        self, reason: AgentError, number: int = signal.SIGTERM, max_grace: float = math.inf
    ) -> None:
        """Stop this node's copy, or the ranks that main's launcher runs here."""
        meeting = self.meeting
        if self._ranks is not None:
            self._ranks.kill()
        elif not self._has_ranks or meeting is None or not meeting.joined:
            super().stop(reason, number, max_grace)
        else:
            grace = min(self.settings.grace, max_grace)
            self.log.info(
                "application_stopping", signal=number, grace_seconds=grace, cause=reason.cause
            )
            self._ranks = Stopping(
                self.loop,
                self.log,
                self.own_pids,
                elsewhere=lambda: not (meeting.released or meeting.outcome or meeting.main_lost),
                on_quiet=lambda: self._announce_stopped(meeting),
            )
            self._ranks.begin(number, grace)

    def forward(self, number: int) -> None:
        """Pass on a signal that the main node was sent."""
        if self._has_ranks:
            Stopping(self.loop, self.log, self.own_pids).forward(number)
        else:
            super().forward(number)

    def _announce_stopped(self, meeting: WorkerMeeting) -> None:
        meeting.put(STOPPED, {})

    def _main_stops(self, message: dict[str, Any]) -> None:
        """Stop what runs here too, with the main node's signal and what is left of its grace."""
        if not self.stopping:
            reason = AgentError.from_json(message["error"])
            self.stop(reason, int(message["signal"]), float(message["grace"]))

    def stop_application(self) -> None:
        """End what still runs here, launched by this node or by main."""
        super().stop_application()
        if self._has_ranks and self.meeting is not None and self.meeting.joined:
            if not self.stopping:
                self.stop(_job_over(143), max_grace=LOST_GRACE_SECONDS)
            ranks = self._ranks
            assert ranks is not None
            bound = self.settings.grace + _LEAVE_SECONDS
            self.loop.wait(lambda: ranks.over, self.loop.clock() + bound)
            ranks.cancel()

    def _main_ended(self, outcome: Outcome) -> None:
        """End this node's copy of the application: the job is over."""
        if self.application is not None and not self.stopping:
            self.stop(_job_over(outcome.code or 143, "look at the main node's log"))

    def on_started(self) -> None:
        """Look at what the main node told before the application ran here."""
        if self.meeting is not None and self.meeting.stop is not None:
            self._main_stops(self.meeting.stop)
        if self.meeting is not None and self.meeting.outcome is not None:
            self._main_ended(self.meeting.outcome)

    def _run_own_copy(self, meeting: WorkerMeeting) -> None:
        """Launch the application here too, and tell the main node how it ended."""
        assert meeting.go is not None
        self.write_hostfile("/tmp/hostfile", meeting.go["hostfile"])
        outcome = self.launch()
        arrived = meeting.put(ENDED, outcome.to_json())
        self.wait(
            "main knows how it ended here", lambda: arrived() or meeting.outcome, _RECORD_SECONDS
        )

    def end(self, outcome: Outcome) -> Outcome:
        """Upload, and give the main node this node's part of the manifest."""
        meeting = self.meeting
        self.shielded = True
        self.stop_application()
        self.stop_sampling()
        if meeting is not None and meeting.given_up:
            return self.end_as_lost(outcome)
        self.enter(model.RELEASE)
        self.begin_upload()
        if meeting is None or not meeting.joined:
            self.enter(model.UPLOAD)
            self.judged(outcome, self.finish_upload())
            return outcome
        self.enter(model.UPLOAD)
        uploaded = self.finish_upload()
        judged = self.judged(outcome, uploaded)
        record: dict[str, Any] = {
            "index": self.node.index,
            "record": self.record(uploaded),
            "failure": self.failure.to_json() if self.failure is not None else None,
            # What main launches here can't tell it: mpirun only says 137.
            "out_of_memory": cgroup.out_of_memory(self._oom_before),
        }
        record["record"]["file_count"] = uploaded["count"]
        if uploaded["count"]:
            listed = meeting.put_file(LEFT, LIST_END, self.stored_list)
            self.wait(
                "main has the list of this node's results",
                lambda: listed() or meeting.main_lost or meeting.given_up,
                math.inf,  # it may be long, and the link beats meanwhile
            )
        arrived = meeting.put(LEFT, record)
        self.wait(
            "main has this node's part",
            lambda: arrived() or meeting.main_lost or meeting.given_up,
            _RECORD_SECONDS,
        )
        self.wait(
            "main tells the exit code",
            lambda: meeting.final or meeting.main_lost or meeting.given_up,
            math.inf if meeting.outcome else 0.0,  # others may upload for hours
        )
        meeting.close()
        if meeting.given_up and self.failure is not None:
            return self.outcome_of(self.failure)
        if meeting.final is not None:
            return meeting.final
        if meeting.main_lost and not judged.code and self.failure is not None:
            return self.outcome_of(self.failure)
        return judged


def _job_over(code: int, hint: str = "") -> AgentError:
    cause = "the job has ended on the main node"
    return AgentError(
        "application stopped", cause, code=code, hint=hint, event="application_stopped"
    )
