"""Run nodes as processes on 127.0.0.2, 127.0.0.3, …, each below a root directory of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

import agent
from agent.core.errors import USAGE, AgentError
from agent.tools.cluster import leftovers, ports, spawn

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_GRACE_SECONDS = 5.0
_MAX_NODES = 250


class Processes:
    """Agents on loopback addresses, with their roots below `directory`."""

    def __init__(self, directory: Path, count: int) -> None:
        if count > _MAX_NODES:
            cause = f"127.0.0.x allows at most {_MAX_NODES}"
            hint = "start containers: leave out --no-docker"
            raise AgentError(f"start {count} processes", cause, code=USAGE, hint=hint)
        self.description = "processes on this machine"
        self.host_address = "127.0.0.1"
        self._directory = directory
        self._addresses = [f"127.0.0.{index + 2}" for index in range(count)]
        self._ssh_port = 0
        self._reserved = ExitStack()
        self._nodes: list[Process] = []

    def open(self) -> None:
        """Choose a port that is free on every node's address."""
        self._ssh_port = ports.common_port(self._addresses, self._reserved)

    def close(self) -> None:
        """Kill every agent, and what an agent left behind."""
        for node in self._nodes:
            node.thaw()
            node.signal(signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_SECONDS
        for node in self._nodes:
            with suppress(subprocess.TimeoutExpired):
                node.process.wait(max(0.0, deadline - time.monotonic()))
        for node in self._nodes:
            node.kill()
        self._reserved.close()

    def address_of(self, index: int) -> str:
        """Return a node's address, also before it starts."""
        return self._addresses[index]

    def start(self, envs: Mapping[int, Mapping[str, str]]) -> dict[int, Process]:
        """Start an agent for each index."""
        return {index: self._start(index, env) for index, env in envs.items()}

    def _start(self, index: int, env: Mapping[str, str]) -> Process:
        """Start an agent with an environment as clean as a container's."""
        root = self._directory / f"node-{index}"
        for directory in (root / "opt", root / "tmp"):
            directory.mkdir(parents=True, exist_ok=True)
        given = {
            "PATH": f"{os.environ.get('PATH', '')}:{_DEFAULT_PATH}".lstrip(":"),
            **{name: os.environ[name] for name in ("HOME", "USER", "LANG") if name in os.environ},
            "ARCHITRAVE_ROOT": str(root),
            # Daemons of one job that share a machine's /tmp remove each other's session directories
            # while they start, and mpirun waits forever for the one that then gave up.
            "TMPDIR": str(root / "tmp"),
            "ARCHITRAVE_ADDRESS": self._addresses[index],
            "ARCHITRAVE_SSH_PORT": str(self._ssh_port),
            "ARCHITRAVE_INTERFACE": "lo",
            **env,
        }
        node = Process(root, self._addresses[index], given)
        self._nodes.append(node)
        return node


class Process:
    """One agent, leader of a session of its own."""

    def __init__(self, root: Path, address: str, env: Mapping[str, str]) -> None:
        self.root = root
        self.address = address
        self.started = time.time()
        self.process = spawn.start(
            [sys.executable, "-m", "agent", "run"],
            env,
            # -m finds the package in its working directory, installed or not.
            cwd=Path(agent.__file__).parent.parent,
            death_signal=signal.SIGTERM,
        )

    @property
    def stdout(self) -> IO[bytes]:
        """Return what the agent writes to stdout."""
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def stderr(self) -> IO[bytes]:
        """Return what the agent writes to stderr."""
        assert self.process.stderr is not None
        return self.process.stderr

    def wait(self) -> int:
        """Wait for the agent's exit; return its exit code."""
        code = self.process.wait()
        return 128 - code if code < 0 else code

    def signal(self, number: int) -> None:
        """Send a signal to the agent only."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def kill(self) -> None:
        """Kill everything that runs on the node."""
        leftovers.kill_processes(self.root, self.process.pid)

    def cut(self) -> None:
        """Refuse: all nodes share the loopback interface."""
        raise AgentError(
            "cut a node off the network",
            "without Docker all nodes share the loopback interface",
            code=USAGE,
            hint="leave out --no-docker, or --kill the node",
        )

    def mend(self) -> None:
        """Do nothing: the node was never cut off."""

    def freeze(self) -> None:
        """Stop the agent (SIGSTOP)."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume a stopped agent."""
        self.signal(signal.SIGCONT)
