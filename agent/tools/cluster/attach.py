"""Open a shell on a node of a job that runs on this machine, or is held there."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import psutil

import agent
from agent.core import variables
from agent.core.errors import NO_OBJECT, USAGE, AgentError
from agent.tools.cluster import containers, leftovers
from agent.tools.cluster.job import job_of, node_name

# Variables of a node's environment: the job's description, and what every process has.
_NAMES = {name.name for name in variables.EVERY} | {
    *("PATH", "HOME", "USER", "LANG", "TMPDIR"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
}


def called(text: str) -> str:
    """Return a node's name for `main`, `worker:INDEX` or `INDEX`; raise AgentError (64)."""
    number = text.removeprefix("worker").lstrip(": ")
    if text != "main" and not (number.isascii() and number.isdigit()):
        hint = "main, or worker:INDEX"
        raise AgentError(f"find the node {text!r}", "no such node", code=USAGE, hint=hint)
    return "main" if text == "main" else f"worker {int(number)}"


def shell(node: str, job: str) -> NoReturn:
    """Become a shell on the named node, of the latest job whose id begins with `job`.

    Raises AgentError (66) where there is none.
    """
    argv = containers.shell_on(node, job, terminal=sys.stdin.isatty())
    if argv is not None:
        os.execvp(argv[0], argv)
    env = _environment(node, job)
    if env is None:
        cause = "no running or held job here has this node"
        hint = "start one with architrave local run; --hold keeps the nodes of a failed job"
        raise AgentError(f"open a shell on {node}", cause, code=NO_OBJECT, hint=hint)
    # Isolated: Python loads modules only from its own directories and this package's.
    start = f"import sys; sys.path.insert(0, {str(Path(agent.__file__).parent.parent)!r})"
    start += "; sys.argv = ['architrave', 'shell']; import agent.__main__"
    os.execve(sys.executable, [sys.executable, "-I", "-c", start], _known(env))


def _known(env: Mapping[str, str]) -> dict[str, str]:
    """Return the job's variables from a node's environment, and this terminal's TERM."""
    kept = {name: env[name] for name in env if name in _NAMES or name.startswith("AWS_BATCH_")}
    return kept | ({"TERM": os.environ["TERM"]} if "TERM" in os.environ else {})


def _environment(node: str, job: str) -> dict[str, str] | None:
    """Return the environment of the latest agent that is this node of a job without containers.

    Any user can start a process that looks like one: it must be the user's own, and its root be in
    the directory of a run, into which no other user can write.
    """
    found: list[tuple[float, dict[str, str]]] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cmdline()[1:] != ["-m", "agent", "run"]:
                continue
            env = process.environ()
            directory = Path(env.get("ARCHITRAVE_ROOT", "/")).parent
            own = set(process.uids()) == {os.geteuid()} and leftovers.is_own(directory)
            if own and node_name(env) == node and job_of(env).startswith(job):
                found.append((process.create_time(), env))
    return max(found, key=lambda one: one[0])[1] if found else None
