"""Decide which command launches the application. Text in, arguments out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agent.core.errors import BAD_SETTINGS, AgentError


@dataclass(frozen=True)
class MpiRun:
    """What mpirun has to know. `hostfile` is empty on a single node.

    `unbound`: a rank may use all processors of its node, as it needs with threads.
    """

    major: int
    slots: int
    hostfile: str = ""
    hosts: int = 1
    interface: str = ""
    ssh: tuple[str, ...] = ()
    as_root: bool = False
    unbound: bool = False
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Launcher:
    """Which launcher starts the application, and why it is this one."""

    name: str
    why: str


def launcher(
    chosen: str, mpirun: str | None, nodes: int, slots_set: bool, uses_mpi: Callable[[], str]
) -> Launcher:
    """Return what is set; else mpirun for several nodes or a program that uses MPI.

    A program without MPI would run several times over the same files. `uses_mpi` returns what
    shows that it has some. Raises AgentError (78) where mpirun is set and not there.
    """
    if chosen == "mpirun" and not mpirun:
        hint = "build the image with Open MPI, or set ARCHITRAVE_LAUNCHER=direct"
        raise AgentError("use mpirun", "not on PATH", code=BAD_SETTINGS, hint=hint)
    if chosen != "auto":
        return Launcher(chosen, "ARCHITRAVE_LAUNCHER is set")
    if not mpirun:
        return Launcher("direct", "mpirun is not on PATH")
    if nodes > 1:
        return Launcher("mpirun", f"there are {nodes} nodes")
    if slots_set:
        return Launcher("mpirun", "ARCHITRAVE_SLOTS is set")
    if shown := uses_mpi():
        return Launcher("mpirun", shown)
    return Launcher("direct", "the program names no MPI")


def binds(more: Sequence[str], env: Mapping[str, str]) -> bool:
    """Return whether the binding of ranks is set: arguments for mpirun, or a variable."""
    marks = ("bind", "rankfile", "cpu", "pe=")
    if any(mark in word.lower() for word in more for mark in marks):
        return True
    names = ("OMPI_MCA_", "PRTE_MCA_")
    return any(name.startswith(names) and "bind" in name for name in env)


def mpi_version(text: str) -> int:
    """Return Open MPI's major version as `mpirun --version` prints it; raise AgentError (78)."""
    match = re.search(r"\(Open MPI\) (\d+)\.", text)
    if match and int(match[1]) in (4, 5):
        return int(match[1])
    first = text.strip().splitlines()[0] if text.strip() else "nothing"
    raise AgentError(
        "use mpirun",
        f"not Open MPI 4 or 5: its version is {first!r}",
        code=BAD_SETTINGS,
        hint="set ARCHITRAVE_LAUNCHER=each and start this MPI from the application, with HOSTFILE",
    )


def mpirun(options: MpiRun, command: Sequence[str]) -> list[str]:
    """Return the whole command line.

    By name, not by path: with a path mpirun puts its own directories before those of each node's
    environment (mpirun(1), --prefix). And without -x: a rank has the environment of its node.
    """
    argv = ["mpirun"]
    # Agents signal the ranks of their own nodes; and a SIGCONT to mpirun is for mpirun only.
    if options.major == 4:
        argv += ["--mca", "ess_base_forward_signals", "none"]
    else:
        argv += ["--forward-signals", "none"]
    if options.as_root:
        argv.append("--allow-run-as-root")
    if options.hostfile:
        argv += ["--hostfile", options.hostfile, *_across(options)]
    else:
        argv += ["--host", f"localhost:{options.slots}", "-np", str(options.slots)]
    if options.unbound:
        argv += ["--bind-to", "none"]
    return [*argv, *options.more, *command]


def daemons_failed(text: str) -> bool:
    """Return, by mpirun's output, whether it failed because a daemon of its own could not start."""
    return "was unable to reliably start one or more daemons" in " ".join(text.split())


# mpirun's own codes when a program was never executed: Open MPI 4's and 5's.
NEVER_EXECUTED = (131, 213)


def not_executed(text: str) -> tuple[bool, str]:
    """Return whether mpirun reports that it could not execute the program, and on which node."""
    output = " ".join(text.split())
    found = "could not access or execute an executable" in output
    found = (
        found or "unable to start the specified application as it encountered an error" in output
    )
    node = re.search(r"\bNode: (\S+)", output)
    return found, node[1] if node else ""


def _across(options: MpiRun) -> list[str]:
    """Return what mpirun needs to reach other nodes.

    No tree spawn: above some 64 hosts the tree of ssh connections stalls (open-mpi/ompi#4465,
    #6198), and only this node's keys and configuration are needed. The daemons stay attached to
    their sessions: one that leaves its session and then can't start (a firewall between the nodes,
    a /tmp that is full) goes unnoticed, and mpirun waits forever.
    """
    agent = " ".join(options.ssh)
    at_once = str(max(128, options.hosts))
    if options.major == 4:
        runtime, plm = "--mca", "plm_rsh"
        attached: tuple[str, ...] = (runtime, "orte_leave_session_attached", "1")
        out_of_band = (runtime, "oob_tcp_if_include")
    else:
        runtime, plm = "--prtemca", "plm_ssh"
        attached = ("--leave-session-attached",)  # no parameter sets it
        out_of_band = (runtime, "prte_if_include")
    argv = [runtime, f"{plm}_agent", agent, runtime, f"{plm}_no_tree_spawn", "1"]
    argv += [runtime, f"{plm}_num_concurrent", at_once]
    argv += attached
    if options.interface:
        argv += ["--mca", "btl_tcp_if_include", options.interface, *out_of_band, options.interface]
    return argv
