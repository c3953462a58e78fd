"""Decide which command starts the application on this node, and in which environment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence

from agent.core import variables
from agent.core.model import Node
from agent.core.settings import Settings
from agent.launch import cgroup, mpirun

_MASTER_PORT = "29500"
ARGUMENTS = ("APP_PARAMS", "APP_IN_FILE", "APP_PARAMS1", "APP_PARAMS2")
# Runs a small program, with the purpose for messages, and returns its output.
Ask = Callable[[str, list[str], dict[str, str]], str]


class LaunchCommand:
    """The launcher of one node and its command line; `chosen` is None before it is needed."""

    def __init__(
        self, settings: Settings, ask: Ask, poll_events: Callable[[], None] = lambda: None
    ) -> None:
        self.chosen: mpirun.Launcher | None = None
        self._settings = settings
        self._ask = ask
        self._poll_events = poll_events
        self._mpi_major = 4

    @property
    def command(self) -> tuple[str, ...]:
        """Return the command; without the example's file where that is neither there nor set."""
        command, given = self._settings.command, self._settings.app_env
        example = self._settings.path(variables.APP_IN_FILE.default)
        if any(name in given for name in ARGUMENTS) or os.path.exists(example):
            return command
        return command[:1]

    def launcher(self, env: dict[str, str]) -> str:
        """Return which launcher is used: the one that is set, or the one that fits the program."""
        if self.chosen is None:
            settings = self._settings
            self.chosen = mpirun.launcher(
                settings.launch.launcher,
                _which("mpirun", env),
                settings.topology.count,
                bool(settings.launch.slots),
                lambda: self.uses_mpi(env),
            )
        return self.chosen.name

    def uses_mpi(self, env: dict[str, str]) -> str:
        """Return what shows that the program uses MPI, "" where nothing does."""
        from agent.launch import mpi_use  # where nothing else decides

        def ask(argv: list[str], env: dict[str, str]) -> str:
            return self._ask("list the program's libraries", argv, env)

        return mpi_use.uses_mpi(self.command, env, ask, self._poll_events)

    def ask_version(self, env: dict[str, str]) -> None:
        """Find out Open MPI's version, if mpirun is used."""
        if self.launcher(env) == "mpirun":
            program = _which("mpirun", env) or "mpirun"
            text = self._ask("ask mpirun for its version", [program, "--version"], env)
            self._mpi_major = mpirun.mpi_version(text)

    def argv(
        self,
        command: Sequence[str],
        env: dict[str, str],
        node: Node,
        ssh: Callable[[], tuple[str, ...]],
    ) -> list[str]:
        """Return the arguments that start the application from this node.

        `ssh` returns the command that reaches other nodes.
        """
        if self.launcher(env) != "mpirun":
            return list(command)
        settings = self._settings
        more, count = settings.launch.mpirun_args, settings.topology.count
        hostfile, interface = "", ""
        if several := count > 1:
            from agent.multinode import network  # a single node doesn't need it

            hostfile = settings.path("/tmp/hostfile")
            interface = settings.network.interface or network.interface_of(node.address)
        options = mpirun.MpiRun(
            major=self._mpi_major,
            slots=node.slots,
            as_root=os.geteuid() == 0,
            # mpirun binds each rank to a core, with all its threads.
            unbound=node.slots < cgroup.processors() and not mpirun.binds(more, settings.app_env),
            more=more,
            hostfile=hostfile,
            hosts=count,
            interface=interface,
            ssh=ssh() if several else (),
        )
        return mpirun.mpirun(options, command)

    def each_env(self, node: Node) -> dict[str, str]:
        """Return the variables that the launcher `each` sets for every copy of the application."""
        settings, topology = self._settings, self._settings.topology
        main, count = topology.main_address or node.address or "127.0.0.1", str(topology.count)
        return {
            "NODE_RANK": str(topology.index),
            "NODE_COUNT": count,
            "MAIN_ADDR": main,
            "HOSTFILE": settings.path("/tmp/hostfile"),
            # As PyTorch names them (torch.distributed, "Environment variable initialization").
            "MASTER_ADDR": main,
            "MASTER_PORT": settings.app_env.get("MASTER_PORT") or _MASTER_PORT,
            "NNODES": count,
        }


def _which(program: str, env: dict[str, str]) -> str | None:
    return shutil.which(program, path=env.get("PATH", os.defpath))
