"""Run a small program for its output while the loop keeps running."""

from __future__ import annotations

import os
import signal

from agent.core.errors import TRY_AGAIN, AgentError
from agent.job.supervisor import Supervisor

# It answers in milliseconds, but slower from a file system that was not read before.
_SECONDS = (10.0, 30.0)


def ask(supervisor: Supervisor, what: str, argv: list[str], env: dict[str, str]) -> str:
    """Run a program and return what it prints, at most 64 KiB; run it again if it hangs.

    Raises AgentError (75) if it doesn't answer: nothing can be assumed then.
    """
    for seconds in _SECONDS:
        text = _ask_once(supervisor, what, argv, env, seconds)
        if text is not None:
            return text
        supervisor.log.warning("command_timed_out", what=what, seconds=seconds)
    cause, hint = f"no answer after {sum(_SECONDS):g} s", "check the file system of the program"
    raise AgentError(f"run {' '.join(argv[:2])}", cause, code=TRY_AGAIN, hint=hint)


def _ask_once(
    supervisor: Supervisor, what: str, argv: list[str], env: dict[str, str], seconds: float
) -> str | None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe:
        try:
            child = supervisor.loop.children.spawn(argv, env, cwd="/", stdout=writer, stderr=writer)
        finally:
            os.close(writer)
        try:
            if not supervisor.wait(what, lambda: not child.running, seconds):
                return None
        finally:
            if child.running:
                child.kill_group(signal.SIGKILL)
        os.set_blocking(reader, False)
        return (pipe.read() or b"").decode("utf-8", "replace")
