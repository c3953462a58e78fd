"""Ask a small program something while the loop goes on."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from agent.core.errors import TRY_AGAIN, AgentError

if TYPE_CHECKING:
    from agent.job.supervisor import Supervisor

# It answers in milliseconds; on a file system that was never read it may take long.
_SECONDS = (10.0, 30.0)


def ask(node: Supervisor, what: str, argv: list[str], env: dict[str, str]) -> str:
    """Run a program and return what it writes, its first 64 KiB; retry once if it hangs.

    Raises AgentError (75) when it doesn't answer: its answer is unknown then.
    """
    for seconds in _SECONDS:
        text = _ask_once(node, what, argv, env, seconds)
        if text is not None:
            return text
        node.log.warning("command_timed_out", what=what, seconds=seconds)
    cause, hint = f"no answer after {sum(_SECONDS):g} s", "check the file system of the program"
    raise AgentError(f"run {' '.join(argv[:2])}", cause, code=TRY_AGAIN, hint=hint)


def _ask_once(
    node: Supervisor, what: str, argv: list[str], env: dict[str, str], seconds: float
) -> str | None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe:
        try:
            child = node.loop.children.spawn(argv, env, cwd="/", stdout=writer, stderr=writer)
        finally:
            os.close(writer)
        try:
            if not node.wait(what, lambda: not child.running, seconds):
                return None
        finally:
            if child.running:
                child.kill_group(signal.SIGKILL)
        os.set_blocking(reader, False)
        return (pipe.read() or b"").decode("utf-8", "replace")
