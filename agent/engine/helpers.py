"""Run heavy work in short-lived processes of the agent's own, which answer in JSON lines.

What needs boto3, paramiko or cryptography is done there: the memory is freed when the helper exits,
and a helper that hangs or is killed can be replaced.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from agent.core.errors import BUG, AgentError, HelperDied
from agent.engine.log import Log
from agent.engine.loop import Loop
from agent.engine.pipe import Lines, read, spawn

_SCRIPT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "helper.py")
_STDERR_TAIL = 2000


class Retry:
    """One retry for a helper that died, if it is still `allowed` by then."""

    def __init__(self, log: Log, what: str, allowed: Callable[[], bool] = lambda: True) -> None:
        self._log = log
        self._what = what
        self._allowed = allowed
        self._used = False

    def again(self, error: HelperDied) -> bool:
        """Return whether to retry, and log it."""
        if self._used or not self._allowed():
            return False
        self._used = True
        self._log.warning("helper_retried", what=self._what, cause=error.cause)
        return True


class Helper:
    """One helper process: it reads requests from standard input and writes messages as lines.

    It waits for `begin`; a `spare` one imports what S3 needs before that.
    """

    def __init__(self, loop: Loop, env: Mapping[str, str], task: str) -> None:
        self.task = task
        self.result: dict[str, Any] | None = None
        self.error: AgentError | None = None
        self._loop = loop
        self._on_message: Callable[[dict[str, Any]], None] = lambda message: None
        self._lines = Lines()
        self._stderr_tail = b""
        command = [sys.executable, "-I", _SCRIPT, task]
        self.child, self._requests, self._messages, self._complaints = spawn(loop, command, env)
        loop.watch(self._messages, self._on_output)
        loop.watch(self._complaints, self._on_stderr)

    def begin(
        self,
        task: str,
        request: Mapping[str, Any],
        on_message: Callable[[dict[str, Any]], None],
    ) -> None:
        """Send it its task; its messages go to `on_message` from now on."""
        self.task, self._on_message = task, on_message
        self.ask([task, request])

    def ask(self, request: Any) -> bool:
        """Send a request; return whether the helper could take it."""
        return self._requests.send(json.dumps(request).encode() + b"\n")

    @property
    def done(self) -> bool:
        """Return whether the process has exited and all of its output has been read."""
        return not self.child.running and self._messages < 0

    def outcome(self) -> dict[str, Any]:
        """Return the result of a helper that is done; raise its error."""
        if self.error is not None:
            raise self.error
        if self.result is not None:
            return self.result
        lines = self.stderr_tail.splitlines()
        how = (
            f"killed by signal {self.child.signal}"
            if self.child.signal
            else "exited without an answer"
        )
        raise HelperDied(
            f"run the helper {self.task}",
            f"{how}{': ' + lines[-1] if lines else ''}",
            code=BUG,
            hint="check the memory limit; if memory was left, report this with the log",
        )

    @property
    def stderr_tail(self) -> str:
        """Return the end of what the helper wrote to standard error."""
        return self._stderr_tail.decode("utf-8", "replace").strip()

    def close(self) -> None:
        """Kill the process, if it still runs, and forget it."""
        if self.child.running:
            self.child.kill_group(9)
        self._requests.close()
        for name in ("_messages", "_complaints"):
            self._close(name)

    def _close(self, name: str) -> None:
        fd = getattr(self, name)
        if fd >= 0:
            self._loop.unwatch(fd)
            os.close(fd)
            setattr(self, name, -1)

    def _on_output(self) -> None:
        data = read(self._messages)
        if data is None:
            return
        if not data:
            self._close("_messages")
            return
        for line in self._lines.feed(data):
            message = json.loads(line)
            if "result" in message:
                self.result = message["result"]
            elif "error" in message:
                self.error = AgentError.from_json(message["error"])
            else:
                self._on_message(message)

    def _on_stderr(self) -> None:
        data = read(self._complaints)
        if data:
            self._stderr_tail = (self._stderr_tail + data)[-_STDERR_TAIL:]
        elif data is not None:
            self._close("_complaints")
