"""Let the nodes of a job reach each other: addresses, keys, sshd, the commands that use them."""

from __future__ import annotations

import os
from typing import Any

from agent import __version__
from agent.core.errors import TRY_AGAIN, AgentError
from agent.core.model import Node
from agent.core.settings import Settings
from agent.engine.process import Child
from agent.job.states import WORKING
from agent.job.supervisor import Supervisor
from agent.launch import cgroup, ulimits
from agent.multinode import network, ssh_keys
from agent.multinode.sshd import Sshd, find_ssh, user_name

_LISTEN_SECONDS = 60.0


class SshAccess:
    """One node's SSH server, and the commands that reach the other nodes."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._settings = supervisor.settings
        self._directory = _directory(supervisor.settings)
        self._sshd: Sshd | None = None

    def identity(self) -> dict[str, Any]:
        """Return what this attempt's keys and the configurations of sshd and ssh are made from.

        The helper that unpacks the archive with the key makes them, which saves a process.
        """
        settings, topology = self._settings, self._settings.topology
        address = network.own_address(
            settings.network.address, settings.network.interface, topology.main_address
        )
        slots = cgroup.slots(settings)
        self._supervisor.node = Node(topology.index, address, slots, __version__)
        return {
            "key_file": settings.path(f"/opt/{settings.network.key_name}"),
            "directory": self._directory,
            "batch": settings.batch_dir,
            "job": topology.job,
            "attempt": topology.attempt,
            "address": address,
            "port": settings.network.ssh_port,
            "user": user_name(),
            "nodes": topology.count,
            "heartbeat": settings.network.heartbeat,
            "rlimits": ulimits.rlimits(settings.launch.ulimits),
        }

    def command(self) -> tuple[str, ...]:
        """Return the command that reaches another node; raise AgentError (127) without one."""
        ssh = find_ssh(self._supervisor.app_env.get("PATH", os.defpath))
        return (ssh, "-F", config_file(self._settings))

    def sftp(self) -> tuple[str, ...]:
        """Return the beginning of the command that opens an SFTP session with another node."""
        return (*self.command(), "-i", os.path.join(self._directory, ssh_keys.FILES_KEY))

    def start(self) -> dict[str, Any]:
        """Start sshd; return what requests to other nodes need."""
        supervisor, settings = self._supervisor, self._settings
        ssh_keys.write_environment(self._directory, supervisor.app_env)
        sshd = Sshd(
            supervisor.loop,
            supervisor.log,
            os.path.join(self._directory, ssh_keys.SSHD_CONFIG),
            settings.app_env,
            supervisor.processes.pids,
            self._failed,
        )
        self._sshd = sshd
        supervisor.processes.on_child.append(self._child_exited)
        supervisor.processes.on_end.append(sshd.close)
        return {
            "port": settings.network.ssh_port,
            "user": user_name(),
            "directory": self._directory,
            "timeout": max(2.0, 2 * settings.network.heartbeat),
        }

    def wait_until_listening(self) -> None:
        """Wait until sshd listens; raise its error."""
        sshd = self._sshd
        assert sshd is not None
        if not self._supervisor.wait("sshd listens", lambda: sshd.listening, _LISTEN_SECONDS):
            cause = f"it does not listen after {_LISTEN_SECONDS:g} s"
            hint = "see the log with ARCHITRAVE_LOG_LEVEL=debug"
            raise AgentError("start sshd", cause, code=TRY_AGAIN, hint=hint)

    def _child_exited(self, child: Child) -> None:
        if self._sshd is not None and child is self._sshd.child:
            self._sshd.child_exited()

    def _failed(self, error: AgentError) -> None:
        """Note that sshd can't be kept running; during the upload none is needed."""
        if self._supervisor.state in WORKING:
            self._supervisor.fail(error)


def config_file(settings: Settings) -> str:
    """Return the configuration with which ssh reaches this attempt's other nodes."""
    return os.path.join(_directory(settings), ssh_keys.SSH_CONFIG)


def _directory(settings: Settings) -> str:
    return os.path.join(settings.runtime_dir, "ssh")
