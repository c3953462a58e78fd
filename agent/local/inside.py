"""Open a shell on a node of a job that runs on this machine, or is held there."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import psutil

import agent
from agent.errors import NO_OBJECT, USAGE, AgentError
from agent.local import containers
from agent.local.job import job_of, node_name


def called(text: str) -> str:
    """Return a node's name for `main`, `worker:INDEX` or `INDEX`; raise AgentError (64)."""
    number = text.removeprefix("worker").lstrip(": ")
    if text != "main" and not (number.isascii() and number.isdigit()):
        hint = "main, or worker:INDEX"
        raise AgentError(f"find the node {text!r}", "it is no node", code=USAGE, hint=hint)
    return "main" if text == "main" else f"worker {int(number)}"


def shell(node: str, job: str) -> NoReturn:
    """Become a shell on the node called so, of the latest job whose id begins so.

    Raises AgentError (66) where there is none.
    """
    words = containers.shell_on(node, job, terminal=sys.stdin.isatty())
    if words is not None:
        os.execvp(words[0], words)
    process = _process(node, job)
    if process is None:
        cause = "no job that runs on this machine has it"
        hint = "architrave local run …; with --hold a failed job's nodes stay"
        raise AgentError(f"open a shell on {node}", cause, code=NO_OBJECT, hint=hint)
    os.chdir(Path(agent.__file__).parent.parent)  # where -m finds the package, installed or not
    env = process.environ() | {k: os.environ[k] for k in ("TERM",) if k in os.environ}
    os.execve(sys.executable, [sys.executable, "-m", "agent", "shell"], env)


def _process(node: str, job: str) -> psutil.Process | None:
    """Return the latest agent that is this node of a job without containers."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cmdline()[1:] != ["-m", "agent", "run"]:
                continue
            env = process.environ()
            if node_name(env) == node and job_of(env).startswith(job):
                found.append(process)
    return max(found, key=lambda process: process.create_time(), default=None)
