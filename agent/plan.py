"""Decide which command launches the application. Text in, words out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agent.errors import BAD_SETTINGS, AgentError


@dataclass(frozen=True)
class MpiRun:
    """What mpirun has to know. `hostfile` is empty on a single node."""

    major: int
    slots: int
    hostfile: str = ""
    hosts: int = 1
    interface: str = ""
    ssh: tuple[str, ...] = ()
    as_root: bool = False
    more: tuple[str, ...] = ()


def launcher(chosen: str, mpirun: str | None) -> str:
    """Return which launcher is used: what is set, or what the image has; raise AgentError (78)."""
    if chosen == "mpirun" and not mpirun:
        hint = "build the image with Open MPI, or set ARCHITRAVE_LAUNCHER=direct"
        raise AgentError("use mpirun", "it is not on PATH", code=BAD_SETTINGS, hint=hint)
    if chosen == "auto":
        return "mpirun" if mpirun else "direct"
    return chosen


def mpi_version(text: str) -> int:
    """Return Open MPI's major version as `mpirun --version` tells; raise AgentError (78)."""
    match = re.search(r"\(Open MPI\) (\d+)\.", text)
    if match and int(match[1]) in (4, 5):
        return int(match[1])
    first = text.strip().splitlines()[0] if text.strip() else "nothing"
    raise AgentError(
        "use mpirun",
        f"it is no Open MPI 4 or 5: it says {first!r}",
        code=BAD_SETTINGS,
        hint="set ARCHITRAVE_LAUNCHER=each and start this MPI from the application, with HOSTFILE",
    )


def mpirun(options: MpiRun, command: Sequence[str]) -> list[str]:
    """Return the whole command line.

    By its bare name: with a path mpirun puts its own directories before those of each node's
    environment (mpirun(1), --prefix). And without -x: a rank has the environment of its node.
    """
    words = ["mpirun"]
    if options.as_root:
        words.append("--allow-run-as-root")
    if options.hostfile:
        words += ["--hostfile", options.hostfile, *_across(options)]
    else:
        words += ["--host", f"localhost:{options.slots}", "-np", str(options.slots)]
    return [*words, *options.more, *command]


def daemons_failed(text: str) -> bool:
    """Tell by mpirun's output whether it failed because a daemon of its own could not start."""
    return "was unable to reliably start one or more daemons" in " ".join(text.split())


def _across(options: MpiRun) -> list[str]:
    """Return what mpirun needs to reach other nodes.

    No tree spawn: above some 64 hosts the tree of ssh connections stalls (open-mpi/ompi#4465,
    #6198), and only this node's keys and configuration are needed. The daemons stay attached to
    their sessions: one that leaves its session and then can't start (a firewall between the nodes,
    a /tmp that is full) is missed by nobody, and mpirun waits for ever.
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
    words = [runtime, f"{plm}_agent", agent, runtime, f"{plm}_no_tree_spawn", "1"]
    words += [runtime, f"{plm}_num_concurrent", at_once]
    words += attached
    if options.interface:
        words += ["--mca", "btl_tcp_if_include", options.interface, *out_of_band, options.interface]
    return words
