"""Be an AWS Lambda function: one job for each invocation, and nothing of it left for the next.

    Lambda Runtime API <--> helper `speak` <--> Runtime --> Call (a Job) --> answer

The helper that speaks with the API stays. Where S3 is used a spare one that has boto3 loaded is
started ahead, so that no invocation waits for that.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from agent.awslambda import invocation
from agent.awslambda.invocation import Budget
from agent.awslambda.scratch import Scratch
from agent.core import event_variables, model
from agent.core import settings as settings_
from agent.core.errors import (
    OS_ERROR,
    S3_UNREACHABLE,
    TIME_LIMIT,
    AgentError,
    HelperDied,
    as_agent_error,
)
from agent.core.model import Outcome, Topology
from agent.core.s3place import S3Place, fields
from agent.core.settings import LAMBDA, Settings
from agent.engine.helpers import Helper
from agent.engine.log import Log
from agent.engine.loop import Loop
from agent.job.directories import make_directory
from agent.job.single import Job
from agent.launch.application import resolve

# For a word to the API, which is a process on the same machine.
_POST_SECONDS = 5.0
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class Spares:
    """Helper processes that outlive an invocation: `pids` are all of them."""

    def __init__(self, loop: Loop, env: Mapping[str, str]) -> None:
        self.pids: set[int] = set()
        self._loop = loop
        self._env = env
        self._spare: Helper | None = None

    def prepare(self) -> None:
        """Start one that is ready when S3 is to be used, if there is none."""
        if self._spare is None or not self._spare.child.running:
            self.take()
            try:
                self._spare = Helper(self._loop, self._env, "spare")
            except (AgentError, OSError):
                return  # no room for a process: whoever needs one says so
            self.pids.add(self._spare.child.pid)

    def take(self) -> Helper | None:
        """Hand over the one that is ready."""
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        self.pids.discard(spare.child.pid)
        if spare.child.running:
            return spare
        spare.close()
        return None


class Call(Job):
    """One invocation as a job on a single node; the request's id is the job's."""

    limit_hint = "give the function more time: its timeout, 900 s at most"
    afresh = True  # Lambda's own retries have the same id
    pages = False  # an invocation pays for its time; `architrave report` makes it of run.json

    def __init__(
        self,
        settings: Settings,
        loop: Loop,
        log: Log,
        *,
        given: S3Place | None,
        came: float,
        plan: Budget,
        spares: Spares,
    ) -> None:
        super().__init__(settings, loop, log)
        self.last_moment = came + plan.answer
        self._application_ends = came + plan.application
        self._upload_begins = came + plan.upload
        self.spared = spares.pids
        self.own_pids = set(spares.pids)
        self.uploaded: dict[str, Any] = {"files": [], "failed": []}
        self._given = given
        self._spares = spares

    def stage_in(self) -> None:
        """Fetch the input that the event names."""
        if self._given is None:
            return
        self.enter(model.FETCH)
        path = _input_path(self.settings, self._given)
        make_directory(os.path.dirname(path), "EXEC_TYPE")
        request = {"place": fields(self._given), "path": path, "path_style": self.path_style}
        assert self.last_moment is not None
        seconds = max(self.last_moment - self.loop.clock(), 0.0)
        what = f"fetch {self._given}"
        answer = self.call("stage_input", what, request, seconds, code=S3_UNREACHABLE)
        self.fetched = answer["fetched"]

    def helper(self, env: dict[str, str], task: str) -> Helper:
        """Return the process that is ready, for what S3 is used for."""
        spare = self._spares.take() if task.startswith("stage_") else None
        return spare or super().helper(env, task)

    def launch(self) -> Outcome:
        """Run the application in the time that the input has left to it."""
        left = self._application_ends - self.loop.clock()
        if left <= 0:
            cause = "no time is left for it"
            raise AgentError("start the application", cause, code=TIME_LIMIT, hint=self.limit_hint)
        limit = min(self.settings.timeout or left, left)
        self.settings = replace(self.settings, timeout=limit)
        return super().launch()

    def wait_for_output(self, done: Callable[[], object], deadline: float) -> bool:
        """Wait for what the application left behind, not longer than its results can wait."""
        return self.loop.wait(done, min(deadline, self._upload_begins))

    def on_started(self) -> None:
        """Let the process that uploads get ready while the application runs."""
        if self.destination is not None:
            self._spares.prepare()
            self.own_pids |= self._spares.pids

    def finish_upload(self) -> dict[str, Any]:
        """Wait for the upload; return {"files", "failed"}."""
        self.uploaded = super().finish_upload()
        return self.uploaded

    def answer(self) -> dict[str, Any]:
        """Run the job; return what the caller is told."""
        self.run()
        return invocation.answer(
            self.outcome, self.times, self.destination, self.uploaded, self.last_lines()
        )


class Runtime:
    """Serves the Lambda Runtime API until it is told to end, or the API is gone."""

    def __init__(self, env: Mapping[str, str], settings: Settings, loop: Loop, log: Log) -> None:
        # The application shall not speak with the API.
        self._env = {k: v for k, v in env.items() if k != "AWS_LAMBDA_RUNTIME_API"}
        self._env["EXEC_TYPE"] = LAMBDA
        self._settings = settings
        self._loop = loop
        self._log = log
        self._directory = os.getcwd()
        self._heard: list[dict[str, Any]] = []
        self._spares = Spares(loop, settings.helper_env)
        self._api_helper = self._new_api_helper()
        self._ended_by = 0

    def serve(self) -> int:
        """Answer one invocation after the other; return the exit code of the environment."""
        self._log.open()
        tmp = self._settings.path("/tmp")
        try:
            self._check_application()
            scratch = Scratch(tmp, f"{self._settings.runtime_dir}.kept")
        except Exception as error:
            refuse(self._loop, self._settings.runtime_api, as_agent_error(error))
            raise
        if self._settings.output is None:
            self._log.warning("results_not_kept", hint="set ARCHITRAVE_OUTPUT=s3://…")
        while not (left := scratch.empty()):
            self._idle()
            if self._settings.output is not None:
                self._spares.prepare()
            came = self._ask({"next": True}, None)
            if self._ended_by:
                return 0
            answer = self._answered(came["invocation"])
            self._idle()
            kind = "failure" if "errorType" in answer else "answer"
            self._ask({"id": came["invocation"]["id"], kind: answer}, _POST_SECONDS)
            if self._ended_by:
                return 128 + self._ended_by
        raise AgentError(
            f"empty {tmp}",
            f"what the application left can't be removed: {', '.join(left[:5])}",
            code=OS_ERROR,
            hint="the next invocation would see it, so Lambda starts a new environment",
        )

    def _check_application(self) -> None:
        """Raise AgentError 126 or 127 where no invocation could run, unless events name it."""
        if not event_variables.allows("APP_BIN", self._settings.event_env):
            resolve(self._settings.command[0], self._settings.app_env.get("PATH", os.defpath))

    def _idle(self) -> None:
        """Be between two invocations."""
        self._log.context = {}
        self._loop.on_signal = self._signal
        self._loop.on_child = lambda child: None

    def _signal(self, number: int) -> None:
        if number in _ENDING:
            self._ended_by = number

    def _answered(self, came: dict[str, Any]) -> dict[str, Any]:
        """Run an invocation; return its answer, also when nothing could run."""
        until = self._loop.clock() + came["deadline"] - time.time()
        self._log.context = {"job": came["id"], "attempt": 1, "node": 0}
        try:
            os.chdir(self._directory)  # the one before has left it to its application
            request = invocation.read(came["event"], self._settings.event_env)
            if isinstance(request, str):
                return {"exit_code": 0, "note": request}
            call = self._call(came, request, until)
            answer = call.answer()
        except AgentError as error:
            self._log.at("error", error.event, error.fields())
            return invocation.refusal(error)
        except Exception as error:
            self._log.error("internal_error", traceback="".join(traceback.format_exception(error)))
            return invocation.refusal(as_agent_error(error))
        self._ended_by = call.ending
        return answer

    def _call(self, came: dict[str, Any], request: invocation.Request, until: float) -> Call:
        """Return the job of an invocation; raise AgentError 64 or 78 for bad words in it."""
        env = self._env | request.env | {"AWS_LAMBDA_REQUEST_ID": came["id"]}
        if came["trace"]:
            env["_X_AMZN_TRACE_ID"] = came["trace"]
        if request.input is not None:
            path = _input_path(self._settings, request.input)
            env = {"APP_IN_FILE": path} | env | {"INPUT_FILE_PATH": path}
        settings = settings_.read(env)
        now = self._loop.clock()
        plan = invocation.budget(until - now, settings.grace)
        topology = Topology(came["id"], 1)
        return Call(
            replace(settings, topology=topology, grace=plan.grace, hold=0.0),
            self._loop,
            self._log,
            given=request.input,
            came=now,
            plan=plan,
            spares=self._spares,
        )

    def _ask(self, line: dict[str, Any], seconds: float | None) -> dict[str, Any]:
        """Send the helper a line and return what it answers; raise AgentError if it can't.

        One that was killed is replaced once: no answer is lost with it.
        """
        try:
            return self._ask_once(line, seconds)
        except HelperDied as error:
            self._log.warning(
                "helper_retried", what="call the Lambda Runtime API", cause=error.cause
            )
            self._spares.pids.discard(self._api_helper.child.pid)
            self._api_helper.close()
            self._api_helper = self._new_api_helper()
            return self._ask_once(line, seconds)

    def _new_api_helper(self) -> Helper:
        api_helper = _api_helper(self._loop, self._settings.runtime_api, self._heard)
        self._spares.pids.add(api_helper.child.pid)
        return api_helper

    def _ask_once(self, line: dict[str, Any], seconds: float | None) -> dict[str, Any]:
        self._heard.clear()
        self._api_helper.ask(line)
        deadline = None if seconds is None else self._loop.clock() + seconds
        heard, api_helper = self._heard, self._api_helper
        self._loop.wait(
            lambda: heard or api_helper.done or ("next" in line and self._ended_by), deadline
        )
        if heard:
            return heard[0]
        if api_helper.done:
            api_helper.outcome()
        if self._ended_by:
            return {}
        cause = "the Runtime API does not answer"
        raise AgentError(
            "serve AWS Lambda", cause, code=OS_ERROR, hint="see AWS_LAMBDA_RUNTIME_API"
        )


def refuse(loop: Loop, api: str, error: AgentError) -> None:
    """Tell Lambda why this environment can't serve: whoever invokes the function is shown it."""
    heard: list[dict[str, Any]] = []
    helper = _api_helper(loop, api, heard)
    helper.ask({"init_failure": invocation.refusal(error)})
    loop.wait(lambda: heard or helper.done, loop.clock() + _POST_SECONDS)
    helper.close()


def _api_helper(loop: Loop, api: str, heard: list[dict[str, Any]]) -> Helper:
    # awslambdaric's own client reads the address from there.
    helper = Helper(loop, {"AWS_LAMBDA_RUNTIME_API": api}, "runtime_api")
    helper.begin("runtime_api", {"api": api}, heard.append)
    return helper


def _input_path(settings: Settings, place: S3Place) -> str:
    return settings.path(f"/tmp/input/{place.key.rpartition('/')[2]}")
