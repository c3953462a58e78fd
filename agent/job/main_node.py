"""Run the job on several nodes, as the one that launches the application."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import replace
from typing import Any

from agent.core import model
from agent.core.errors import TIME_LIMIT, TRY_AGAIN, AgentError
from agent.core.model import AGENT, Outcome
from agent.job.directories import make_directory
from agent.job.single import Job
from agent.launch import mpirun
from agent.launch.application import MEMORY_HINT
from agent.multinode import network
from agent.multinode.main_side import MainMeeting
from agent.multinode.meeting import (
    DONE,
    GO,
    GO_NAME,
    RELEASE_NAME,
    SIGNAL_NAME,
    SILENT_BEATS,
    STOP_NAME,
)
from agent.multinode.output_claim import claim

_ANNOUNCE_SECONDS = 20.0
# A worker that can't be reached is no reason to hold the others for longer.
_STOP_SECONDS = 3.0
# A short run shall not wait for paramiko's import, a long one not hold its memory.
_WARM_SECONDS = 10.0


class MainNode(Job):
    """The main node: takes the workers in, launches, tells them the end, collects their parts."""

    meeting: MainMeeting | None = None
    _mpi_major = 0
    # When a worker that doesn't say that its ranks have ended is not waited for any more.
    _others_until = 0.0

    def work(self) -> Outcome:
        """Do everything until the application has ended, on every node."""
        self.log.open()
        self.prepare()
        self.stage_in()
        self.meet()
        outcome = self.launch()
        return self._with_workers(outcome)

    def meet(self) -> None:
        """Start sshd and wait until every worker is in; write the hostfile."""
        self.enter(model.JOIN)
        ssh = self.open_sshd()
        settings = self.settings
        meeting = MainMeeting(
            self.loop,
            self.log,
            settings.topology,
            self.batch,
            settings.heartbeat,
            ssh,
            self.start_helper,
            self.fail,
            output_dir=self.output_dir,
        )
        self.meeting = meeting
        self.keep_paths()
        meeting.on_ended = self._copy_ended
        # Before a worker on the same file system makes it in this node's stead.
        make_directory(self.output_dir, "TMP_OUTPUT_DIR")
        self.token = meeting.token
        claim(self.output_dir, self.token, self.settings.topology.index)
        meeting.watch()
        meeting.warm()
        self.ask_version()
        joined = self.wait(
            "workers join",
            lambda: not meeting.roster.missing,
            settings.join_timeout,
            lambda: meeting.roster.missing,
        )
        if not joined:
            raise meeting.missing()
        self.write_hostfiles(meeting.nodes)
        self.log.info("nodes_joined", nodes=settings.topology.count)

    def ask_version(self) -> None:
        """Learn Open MPI's version while the workers are on their way."""
        env = self.app_env()
        if self.launcher(env) != "mpirun":
            return
        program = shutil.which("mpirun", path=env.get("PATH", os.defpath)) or "mpirun"
        text = self.ask("mpirun tells its version", [program, "--version"], env)
        self._mpi_major = mpirun.mpi_version(text)

    def check_launcher(self, env: dict[str, str]) -> None:
        """Warn of a program without MPI that mpirun is about to start many times."""
        by_mpirun = self.settings.launcher == "auto" and self.launcher(env) == "mpirun"
        if by_mpirun and not self.uses_mpi(env):
            self.log.warning(
                "mpi_not_used",
                program=self.command[0],
                hint="ARCHITRAVE_LAUNCHER=each starts it once on every node,"
                " ARCHITRAVE_LAUNCHER=direct on the main node only",
            )

    def mpirun_options(self) -> mpirun.MpiRun:
        """Return what mpirun needs to reach the workers."""
        settings = self.settings
        return replace(
            super().mpirun_options(),
            major=self._mpi_major,
            hostfile=settings.path("/tmp/hostfile"),
            hosts=settings.topology.count,
            interface=settings.interface or network.interface_of(self.node.address),
            ssh=self.ssh,
        )

    def launch(self) -> Outcome:
        """Launch; with the launcher `each`, on every node at once."""
        assert self.meeting is not None
        if self.settings.launcher == "each":
            self._send_go()
        self.loop.call_at(self.loop.clock() + _WARM_SECONDS, self.meeting.cool)
        return super().launch()

    def _send_go(self) -> None:
        assert self.meeting is not None
        with open(self.settings.path("/tmp/hostfile"), encoding="ascii") as file:
            go = {"hostfile": file.read(), "main_address": self.node.address}
        meeting = self.meeting
        meeting.announce(GO, GO_NAME, go)
        self.wait(
            "every worker is told to launch", lambda: not meeting.announcing, _ANNOUNCE_SECONDS
        )
        for index in sorted({node.index for node in meeting.nodes} - meeting.announced):
            cause = meeting.unreached.get(str(index), "not told in time")
            hint = f"look at the log of worker {index}"
            raise AgentError(f"reach worker {index}", cause, code=TRY_AGAIN, hint=hint)

    def forward(self, number: int) -> None:
        """Pass on a signal to what runs here and on the workers."""
        super().forward(number)
        meeting = self.meeting
        if self.application is not None and not self.stopping and meeting is not None:
            meeting.announce(GO, SIGNAL_NAME, {"signal": number}, _STOP_SECONDS)

    def on_stop(self, reason: AgentError, number: int, grace: float) -> None:
        """Have each worker stop what of the application runs there."""
        meeting = self.meeting
        if meeting is None or meeting.leaving or self.settings.launcher == "direct":
            return
        message = {"signal": number, "grace": grace, "error": reason.to_json()}
        meeting.announce(GO, STOP_NAME, message, _STOP_SECONDS)
        self._others_until = self.loop.clock() + grace + _STOP_SECONDS

    def stopping_elsewhere(self) -> bool:
        """Tell whether ranks on workers still have the grace period."""
        late = self.loop.clock() > self._others_until
        if self.meeting is None or self.settings.launcher == "each" or late:
            return False
        return bool(self.meeting.computing())

    def on_release(self) -> None:
        """Let the launcher's daemons on the workers go on."""
        if self.meeting is not None and self._others_until:
            self.meeting.announce(GO, RELEASE_NAME, {}, _STOP_SECONDS)

    def _copy_ended(self, index: int, outcome: Outcome) -> None:
        """End this node's copy of the application when a worker's has failed, as mpirun would."""
        if outcome.code and self.application is not None:
            cause = f"its copy on worker {index} exited with {outcome.code}"
            hint = f"look at the log of worker {index}"
            error = _stopped(cause, outcome.code, hint)
            if not self.stopping:
                self.stop(error)

    def on_started(self) -> None:
        """Look at what workers told before the application ran here."""
        for index, outcome in self.meeting.ended.items() if self.meeting else ():
            self._copy_ended(index, outcome)

    def _with_workers(self, outcome: Outcome) -> Outcome:
        """Return the outcome of all nodes: a worker that was lost, or whose copy failed, counts."""
        meeting = self.meeting
        assert meeting is not None
        if self.settings.launcher == "each":
            return self._outcome_of_each(outcome)
        if outcome.code and outcome.source != AGENT and not self.ending:
            # mpirun also fails when a node is gone; a node that gives no sign of life is the cause.
            # A beat that was on its way when mpirun ended doesn't count.
            ended = self.loop.clock() + self.settings.heartbeat / 2
            self.wait(
                "every worker is alive",
                lambda: meeting.seen_since(ended),
                (SILENT_BEATS + 2) * self.settings.heartbeat,
            )
        return outcome

    def _outcome_of_each(self, outcome: Outcome) -> Outcome:
        """Wait for every node's copy of the application; the first that failed decides."""
        meeting = self.meeting
        assert meeting is not None
        if outcome.code and (self.failure or outcome.source != AGENT):
            return outcome
        workers = self.settings.topology.workers

        def decided() -> bool:
            failed = any(one.code for one in meeting.ended.values())
            return failed or all(index in meeting.ended for index in workers)

        settings = self.settings
        # Each copy has the same time limit, and then the grace period.
        limit = (
            settings.timeout + settings.grace + _ANNOUNCE_SECONDS if settings.timeout else math.inf
        )
        if not self.wait("the application ends on every node", decided, limit):
            left = ", ".join(str(index) for index in workers if index not in meeting.ended)
            cause = f"its copy on worker {left} did not exit in time"
            raise _stopped(cause, TIME_LIMIT, "raise ARCHITRAVE_TIMEOUT_SECONDS")
        for index, one in meeting.ended.items():
            if one.code:
                return replace(one, cause=f"on worker {index} {one.cause}")
        return outcome

    def end(self, outcome: Outcome) -> Outcome:
        """Tell the workers, upload, collect their parts, write the record."""
        self.shielded = True
        self.stop_application()
        meeting = self.meeting
        if meeting is None:
            return super().end(outcome)
        if meeting.given_up:
            return self.end_as_lost(outcome)
        self.enter(model.RELEASE)
        meeting.leaving = True
        meeting.announce(DONE, "done", self._message(outcome))
        self.begin_upload()
        self.wait(
            "every worker is told the end",
            lambda: meeting.given_up or not meeting.announcing,
            _ANNOUNCE_SECONDS,
        )
        again = self.loop.every(self.settings.heartbeat, meeting.announce_again)
        self.enter(model.UPLOAD)
        uploaded = self.finish_upload()
        self.wait(
            "workers part",
            lambda: meeting.given_up or not meeting.awaited(),
            math.inf,  # one that is silent, or can't be told, is lost; others may upload for hours
            lambda: meeting.awaited(),
        )
        again.cancel()
        if meeting.given_up:
            return self.end_as_lost(outcome)
        outcome = self._explained_by_workers(outcome)
        outcome = self.judged(outcome, uploaded)
        outcome = self._judged_by_workers(outcome)
        nodes = {self.node.index: self.recorded(uploaded)}
        nodes |= {index: record["files"] for index, record in meeting.records.items()}
        outcome = self.write_record(outcome, nodes)
        # What was found out since they were told: a worker ends with the main node's code.
        meeting.announce(DONE, "final", self._message(outcome))
        self.wait(
            "every worker knows the exit code", lambda: not meeting.announcing, _ANNOUNCE_SECONDS
        )
        meeting.close()
        return outcome

    def _message(self, outcome: Outcome) -> dict[str, Any]:
        topology = self.settings.topology
        return {"job": topology.job, "attempt": topology.attempt, "outcome": outcome.to_json()}

    def _explained_by_workers(self, outcome: Outcome) -> Outcome:
        """Return the outcome with its cause: a rank that was killed for memory on its node."""
        assert self.meeting is not None
        if outcome.code != 137 or outcome.source == AGENT or outcome.out_of_memory:
            return outcome
        for index, record in sorted(self.meeting.records.items()):
            if told := record.get("out_of_memory"):
                cause = f"worker {index} ran {told}"
                fields = {"worker": index, "cause": f"ran {told}", "code": outcome.code}
                self.log_failure("worker_out_of_memory", **fields, hint=MEMORY_HINT)
                return replace(outcome, out_of_memory=True, cause=cause, hint=MEMORY_HINT)
        return outcome

    def _judged_by_workers(self, outcome: Outcome) -> Outcome:
        """Return the outcome with what the workers' parts say of it."""
        meeting = self.meeting
        assert meeting is not None
        errors = [
            AgentError(
                f"collect the results of worker {index}",
                "it did not say that it has uploaded them",
                code=TRY_AGAIN,
                hint=f"look at the log of worker {index}",
            )
            for index in sorted({*meeting.awaited(), *meeting.lost})
        ]
        for index, record in sorted(meeting.records.items()):
            if record.get("failure"):
                error = AgentError.from_json(record["failure"])
                what = f"collect the results of worker {index}"
                errors.append(AgentError(what, str(error), code=error.code, hint=error.hint))
        for error in errors:
            self.fail(error)
        return self.outcome_of(errors[0]) if errors and not outcome.code else outcome


def _stopped(cause: str, code: int, hint: str) -> AgentError:
    return AgentError(
        "application stopped", cause, code=code, hint=hint, event="application_stopped"
    )
