"""Start helper processes for a node's job, and call them for a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agent.core.errors import BUG, OS_ERROR, AgentError, HelperDied, os_reason
from agent.engine.helpers import Helper, Retry
from agent.engine.loop import Loop
from agent.job.supervisor import Supervisor

_CLEANUP_SECONDS = 2.0
# How a helper process is started: for a loop, with an environment, for a task.
Start = Callable[[Loop, Mapping[str, str], str], Helper]


class HelperCalls:
    """The helpers of one node's job; they are killed at its end."""

    def __init__(self, supervisor: Supervisor, start: Start = Helper) -> None:
        self._supervisor = supervisor
        self._start = start

    def start(
        self, task: str, request: dict[str, Any], on_message: Callable[[dict[str, Any]], None]
    ) -> Helper:
        """Start a helper process. Only those that reach S3 are given its credentials.

        Raises AgentError (71) when no further process may be started.
        """
        supervisor = self._supervisor
        env = supervisor.settings.helper_env
        if not task.startswith("stage_"):
            env = {name: value for name, value in env.items() if not name.startswith("AWS_")}
        try:
            helper = self._start(supervisor.loop, env, task)
            helper.begin(task, request, on_message)
        except OSError as error:
            hint = "raise this container's limit of open files (ulimit -n)"
            raise AgentError(f"start {task}", os_reason(error), code=OS_ERROR, hint=hint) from error
        supervisor.processes.track(helper)
        return helper

    def retry(self, what: str) -> Retry:
        """Return what allows one retry for a helper that died, if time is left."""
        supervisor = self._supervisor
        return Retry(supervisor.log, what, lambda: not supervisor.hurried)

    def call(
        self, task: str, what: str, request: dict[str, Any], seconds: float, code: int
    ) -> dict[str, Any]:
        """Run a helper and return its result; one that dies or hangs is retried once.

        `code` is the phase's exit code if the retry fails too.
        """
        retry = self.retry(what)
        while True:
            helper = self.start(task, request, self.log_message)
            try:
                return self._result(helper, what, seconds)
            except HelperDied as error:
                if not retry.again(error):
                    raise AgentError(what, error.cause, code=code, hint=error.hint) from error
                self._clear_away(helper)
            finally:
                helper.close()

    def _result(self, helper: Helper, what: str, seconds: float) -> dict[str, Any]:
        if not self._supervisor.wait(what, lambda: helper.done, seconds):
            cause = f"not done after {seconds:g} s"
            raise HelperDied(what, cause, code=BUG, hint="check the network")
        try:
            return helper.outcome()
        except AgentError as error:
            if error.code == BUG and helper.stderr_tail:
                self._supervisor.log.error("internal_error", traceback=helper.stderr_tail)
            raise

    def _clear_away(self, helper: Helper) -> None:
        """Kill a helper and its 7-Zip or dpkg, which would disturb the next one's.

        No application runs during a call, so every orphan is the helper's.
        """
        helper.close()
        loop = self._supervisor.loop
        loop.wait(lambda: not helper.child.running, loop.clock() + _CLEANUP_SECONDS)
        loop.children.kill_orphans()

    def log_message(self, message: dict[str, Any]) -> None:
        """Log what a helper reports; begin a phase that it names."""
        if "phase" in message:
            self._supervisor.begin_phase(message["phase"])
            return
        level = message.pop("log", "info")
        self._supervisor.log.at(level, str(message.pop("event", "helper_message")), message)
