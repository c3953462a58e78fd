"""Join the main node as a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from agent.core.errors import TRY_AGAIN, AgentError
from agent.job.directories import make_directory
from agent.job.parts import Parts
from agent.job.ssh_access import SshAccess
from agent.multinode.heartbeat_link import HeartbeatLink
from agent.multinode.worker_side import WorkerMeeting


def start_meeting(parts: Parts, ssh: SshAccess) -> WorkerMeeting:
    """Start sshd; return this worker's side of the meeting, which has not joined yet.

    Raises AgentError (127) if there is no ssh client, before any node waits.
    """
    supervisor = parts.supervisor
    main = supervisor.settings.topology.main_address
    command = [*ssh.sftp(), "-o", "ConnectionAttempts=1", "-s", main, "sftp"]

    def start_link(on_message: Callable[[dict[str, Any]], None]) -> HeartbeatLink:
        link = HeartbeatLink(supervisor.loop, command, supervisor.app_env, on_message)
        supervisor.processes.track(link)
        return link

    meeting = WorkerMeeting(
        supervisor.loop,
        supervisor.log,
        supervisor.settings,
        ssh.start(),
        parts.helpers.start,
        supervisor.fail,
        node=supervisor.node,
        start_link=start_link,
    )
    # Claimed while it joins: a node that is stopped then must release it too.
    meeting.on_token = parts.output_dir.set_token
    return meeting


def join_main(parts: Parts, ssh: SshAccess, meeting: WorkerMeeting) -> None:
    """Wait for sshd first, then join: a worker that has joined can be reached.

    Raises AgentError (75) when the main node does not answer in time.
    """
    supervisor, output_dir = parts.supervisor, parts.output_dir
    settings = supervisor.settings
    main = settings.topology.main_address
    parts.hostfiles.maintain(supervisor.loop)
    meeting.watch()
    # Before main may launch: mpirun's ranks begin in main's working directory on every node, and
    # what they write from then on is a result.
    if settings.launch.workdir:
        make_directory(settings.launch.workdir, "ARCHITRAVE_WORKDIR")
    output_dir.snapshot()
    ssh.wait_until_listening()
    seconds, retry = settings.network.join_timeout, parts.helpers.retry(f"join {main}")
    steps = meeting.join(seconds, retry)
    # The helper has the deadline and knows the cause; in one more second it reports it.
    if not supervisor.wait_steps("this node joins the main node", steps, seconds + 1):
        hint = "see the log of the main node"
        raise AgentError(f"join {main}", "no answer in time", code=TRY_AGAIN, hint=hint)
    output_dir.owner = meeting.owner
    if output_dir.is_shared:
        supervisor.log.info("output_directory_shared", owner=meeting.owner)
    supervisor.node = replace(supervisor.node, address=meeting.address)
