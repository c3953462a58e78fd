"""Run the job as the main node, which launches the application."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from agent.core import model
from agent.core.errors import AgentError
from agent.core.model import FailureKind
from agent.job.directories import make_directory
from agent.job.parts import Parts
from agent.job.single import OnRecords, finish_single
from agent.job.ssh_access import SshAccess
from agent.job.stage_in import stage_in
from agent.job.states import State
from agent.job.workers import Workers, judge_records
from agent.multinode.main_side import MainMeeting
from agent.multinode.output_claim import claim

_SEND_SECONDS = 20.0
# A short run must not wait for paramiko's import, a long one not hold its memory.
_WARM_SECONDS = 10.0


class MainNode:
    """The main node: accepts the workers, launches, sends the outcome, collects the records.

    `stage` and `on_records` replace a job's own staging and its run.json: doctor passes others.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        stage: Callable[..., list[dict[str, Any]]] = stage_in,
        on_records: OnRecords | None = None,
    ) -> None:
        self.parts = parts
        self._supervisor = parts.supervisor
        self._ssh = SshAccess(parts.supervisor)
        self._stage = stage
        self._on_records = on_records or parts.record.write
        self._meeting: MainMeeting | None = None

    def work(self) -> None:
        """Do everything until the application has exited on every node."""
        supervisor, run = self._supervisor, self.parts.run
        settings, loop = supervisor.settings, supervisor.loop
        self.parts.record.fetched = self._stage(supervisor, self.parts.helpers, self._ssh)
        supervisor.enter(State.JOINING, model.JOIN)
        meeting = self._meet()
        workers = Workers(supervisor, run, meeting)
        run.peers, run.ssh = workers, self._ssh.command
        if settings.launch.launcher == "each":
            workers.launch_copies()
        supervisor.enter(State.RUNNING, model.RUN)
        loop.call_at(loop.clock() + _WARM_SECONDS, meeting.cool)
        supervisor.verdict.decide(workers.outcome_with(run.launch(settings.limits.timeout)))

    def _meet(self) -> MainMeeting:
        """Start sshd and wait until every worker has joined; write the hostfile."""
        supervisor, output_dir = self._supervisor, self.parts.output_dir
        settings = supervisor.settings
        meeting = MainMeeting(
            supervisor.loop,
            supervisor.log,
            settings,
            self._ssh.start(),
            self.parts.helpers.start,
            supervisor.fail,
        )
        self._meeting = meeting
        self.parts.hostfiles.maintain(supervisor.loop)
        # Before a worker on the same file system makes it as its own.
        make_directory(output_dir.path, "TMP_OUTPUT_DIR")
        output_dir.token = meeting.token
        claim(output_dir.path, meeting.token, settings.topology.index)
        meeting.watch()
        meeting.warm()
        self.parts.launch_command.ask_version(supervisor.app_env)

        if not supervisor.wait(
            "workers join",
            lambda: not meeting.roster.missing,
            settings.network.join_timeout,
            lambda: meeting.roster.missing,
        ):
            raise meeting.missing()
        self.parts.hostfiles.write(supervisor.node, meeting.nodes)
        supervisor.log.info("nodes_joined", nodes=settings.topology.count)
        return meeting

    def finish(self) -> None:
        """Send the workers the outcome, upload, collect their records, write run.json."""
        supervisor, parts, meeting = self._supervisor, self.parts, self._meeting
        if meeting is None:
            finish_single(parts, self._on_records)
            return
        if supervisor.failed(FailureKind.FROZEN):
            parts.upload.skip()
            return
        supervisor.enter(State.UPLOADING, model.RELEASE)
        meeting.announce_end("done", supervisor.verdict.outcome)
        parts.record.begin_page()
        parts.upload.begin()
        supervisor.wait(
            "every worker has the outcome", lambda: not meeting.announcing, _SEND_SECONDS
        )
        again = supervisor.loop.every(supervisor.settings.network.heartbeat, meeting.announce_again)
        try:
            supervisor.begin_phase(model.UPLOAD)
            uploaded = parts.upload.finish()
            supervisor.enter(State.COLLECTING)
            # Without a bound: a worker that is silent, or can't be reached, is lost; others may
            # upload for hours.
            supervisor.wait(
                "workers send their records",
                lambda: not meeting.awaited(),
                math.inf,
                meeting.awaited,
            )
        except AgentError:  # this node was frozen, and the others continued without it
            parts.upload.skip()
            return
        finally:
            again.cancel()
        supervisor.enter(State.RECORDING)
        judge_records(supervisor, meeting)
        nodes = {supervisor.node.index: parts.record.write_node(uploaded)}
        nodes |= {index: record["files"] for index, record in meeting.records.items()}
        self._on_records(nodes)
        # What was found out since the announcement: a worker exits with the main node's code.
        meeting.announce_end("final", supervisor.verdict.outcome)
        supervisor.wait(
            "every worker knows the exit code", lambda: not meeting.announcing, _SEND_SECONDS
        )
        meeting.close()
