"""Run as an AWS Lambda function: one job for each invocation, with nothing left for the next one.

    Lambda Runtime API <--> helper `runtime_api` <--> Runtime --> Call (a role) --> answer

The helper that calls the API stays. Where S3 is used a spare one that has boto3 loaded is
started ahead, so that no invocation waits for that.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Mapping
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
from agent.core.s3_uri import S3Uri, fields, has_own_endpoint
from agent.core.settings import LAMBDA, Settings
from agent.engine.helpers import Helper, Retry
from agent.engine.log import Log
from agent.engine.loop import Loop
from agent.job import lifecycle
from agent.job.directories import make_directory
from agent.job.parts import Parts
from agent.job.run import Peers
from agent.job.single import Single, finish_single
from agent.job.supervisor import ENDING_SIGNALS, Supervisor
from agent.launch.application import resolve

# For a request to the API, which is a process on the same machine.
_POST_SECONDS = 5.0
_LIMIT_HINT = "raise the function's timeout (at most 900 s)"


class Spares:
    """Helper processes that outlive an invocation: `pids` are all of them."""

    def __init__(self, loop: Loop, env: Mapping[str, str]) -> None:
        self.pids: set[int] = set()
        self._loop = loop
        self._env = env
        self._spare: Helper | None = None

    def prepare(self) -> None:
        """Start one that will be ready when S3 is used, if there is none."""
        if self._spare is None or not self._spare.child.running:
            self.take()
            try:
                self._spare = Helper(self._loop, self._env, "spare")
            except (AgentError, OSError):
                return  # no further process is allowed: an error where one is needed
            self.pids.add(self._spare.child.pid)

    def start(self, loop: Loop, env: Mapping[str, str], task: str) -> Helper:
        """Return the ready process for a task that uses S3, else a new one."""
        spare = self.take() if task.startswith("stage_") else None
        return spare or Helper(loop, env, task)

    def take(self) -> Helper | None:
        """Return the one that is ready."""
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        self.pids.discard(spare.child.pid)
        if spare.child.running:
            return spare
        spare.close()
        return None


class Call:
    """One invocation as a job on a single node; the request's id is the job's."""

    def __init__(
        self,
        settings: Settings,
        loop: Loop,
        log: Log,
        *,
        input: S3Uri | None,
        start: float,
        budget: Budget,
        spares: Spares,
    ) -> None:
        self._supervisor = Supervisor(
            settings, loop, log, deadline=start + budget.answer, spared=spares.pids
        )
        self.parts = Parts(
            self._supervisor,
            start_helper=spares.start,
            limit_hint=_LIMIT_HINT,
            output_deadline=start + budget.upload,
            grace=budget.grace,
            fresh=True,  # Lambda's own retries have the same id
            page=False,  # an invocation's time is billed; `architrave report` makes the page
        )
        self.parts.run.peers = _Prepare(self._supervisor, spares)
        self._input = input
        self._application_deadline = start + budget.application

    def work(self) -> None:
        """Fetch the input, and run the application in the time that is left to it."""
        supervisor = self._supervisor
        if self._input is not None:
            self.parts.record.fetched = self._fetch(self._input)
        left = self._application_deadline - supervisor.loop.clock()
        if left <= 0:
            cause = "no time is left for it"
            raise AgentError("start the application", cause, code=TIME_LIMIT, hint=_LIMIT_HINT)
        Single(self.parts).launch(min(supervisor.settings.limits.timeout or left, left))

    def _fetch(self, uri: S3Uri) -> list[dict[str, Any]]:
        supervisor = self._supervisor
        supervisor.begin_phase(model.FETCH)
        path = _input_path(supervisor.settings, uri)
        make_directory(os.path.dirname(path))
        path_style = has_own_endpoint(supervisor.settings.helper_env)
        request = {"uri": fields(uri), "path": path, "path_style": path_style}
        assert supervisor.deadline is not None
        seconds = max(supervisor.deadline - supervisor.loop.clock(), 0.0)
        answer = self.parts.helpers.call(
            "stage_input", f"fetch {uri}", request, seconds, code=S3_UNREACHABLE
        )
        fetched: list[dict[str, Any]] = answer["fetched"]
        return fetched

    def finish(self) -> None:
        """Upload what there is, and write the record."""
        finish_single(self.parts, self.parts.record.write)

    def answer(self) -> dict[str, Any]:
        """Run the job; return the caller's answer."""
        lifecycle.run(self)
        run, outcome = self.parts.run, self._supervisor.verdict.outcome
        uri, uploaded = self._supervisor.settings.results_uri, self.parts.upload.answer
        return invocation.answer(outcome, run.times, uri, uploaded, run.last_lines())

    @property
    def stop_signal(self) -> int:
        """Return the signal that stopped the environment, 0 if none did."""
        return self._supervisor.stop_signal


class _Prepare(Peers):
    """Let the process that uploads get ready while the application runs."""

    def __init__(self, supervisor: Supervisor, spares: Spares) -> None:
        self._supervisor = supervisor
        self._spares = spares

    def started(self) -> None:
        """Start it."""
        if self._supervisor.settings.results_uri is not None:
            self._spares.prepare()
            self._supervisor.processes.pids |= self._spares.pids


class Runtime:
    """Serves the Lambda Runtime API until a signal, or until the API is unreachable."""

    def __init__(self, env: Mapping[str, str], settings: Settings, loop: Loop, log: Log) -> None:
        # The application must not call the API.
        self._env = {k: v for k, v in env.items() if k != "AWS_LAMBDA_RUNTIME_API"}
        self._env["EXEC_TYPE"] = LAMBDA
        self._settings = settings
        self._loop = loop
        self._log = log
        self._directory = os.getcwd()
        self._answers: list[dict[str, Any]] = []
        self._spares = Spares(loop, settings.helper_env)
        self._api_helper = self._new_api_helper()
        self._stop_signal = 0

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
            event = self._ask({"next": True}, None)
            if self._stop_signal:
                return 0
            answer = self._run_invocation(event["invocation"])
            self._idle()
            kind = "failure" if "errorType" in answer else "answer"
            self._ask({"id": event["invocation"]["id"], kind: answer}, _POST_SECONDS)
            if self._stop_signal:
                return 128 + self._stop_signal
        raise AgentError(
            f"empty {tmp}",
            f"what the application left can't be removed: {', '.join(left[:5])}",
            code=OS_ERROR,
            hint="make the application remove its files; Lambda now starts a new environment",
        )

    def _check_application(self) -> None:
        """Raise AgentError 126 or 127 where no invocation could run, unless events name it."""
        if not event_variables.allows("APP_BIN", self._settings.event_env):
            resolve(self._settings.command[0], self._settings.app_env.get("PATH", os.defpath))

    def _idle(self) -> None:
        """Reset the log's context and the handlers between two invocations."""
        self._log.context = {}
        self._loop.on_signal = self._signal
        self._loop.on_child = lambda child: None

    def _signal(self, number: int) -> None:
        if number in ENDING_SIGNALS:
            self._stop_signal = number

    def _run_invocation(self, event: dict[str, Any]) -> dict[str, Any]:
        """Run an invocation; return its answer, also when nothing could run."""
        until = self._loop.clock() + event["deadline"] - time.time()
        self._log.context = {"job": event["id"], "attempt": 1, "node": 0}
        try:
            os.chdir(self._directory)  # the invocation before left it to its application
            request = invocation.read(event["event"], self._settings.event_env)
            if isinstance(request, str):
                return {"exit_code": 0, "note": request}
            call = self._call(event, request, until)
            answer = call.answer()
        except AgentError as error:
            self._log.at("error", error.event, error.fields())
            return invocation.refusal(error)
        except Exception as error:
            self._log.error("internal_error", traceback="".join(traceback.format_exception(error)))
            return invocation.refusal(as_agent_error(error))
        self._stop_signal = call.stop_signal
        return answer

    def _call(self, event: dict[str, Any], request: invocation.Request, until: float) -> Call:
        """Return the job of an invocation; raise AgentError 64 or 78 for bad values in it."""
        env = self._env | request.env | {"AWS_LAMBDA_REQUEST_ID": event["id"]}
        if event["trace"]:
            env["_X_AMZN_TRACE_ID"] = event["trace"]
        if request.input is not None:
            path = _input_path(self._settings, request.input)
            env = {"APP_IN_FILE": path} | env | {"INPUT_FILE_PATH": path}
        settings = settings_.read_for_invocation(env, event["id"])
        now = self._loop.clock()
        budget = invocation.budget(until - now, settings.limits.grace)
        return Call(
            settings,
            self._loop,
            self._log,
            input=request.input,
            start=now,
            budget=budget,
            spares=self._spares,
        )

    def _ask(self, line: dict[str, Any], seconds: float | None) -> dict[str, Any]:
        """Send the helper a line and return what it answers; raise AgentError if it can't.

        One that was killed is replaced once: no answer is lost with it.
        """
        retry = Retry(self._log, "call the Lambda Runtime API")
        while True:
            try:
                return self._ask_once(line, seconds)
            except HelperDied as error:
                if not retry.again(error):
                    raise
                self._spares.pids.discard(self._api_helper.child.pid)
                self._api_helper.close()
                self._api_helper = self._new_api_helper()

    def _new_api_helper(self) -> Helper:
        api_helper = _api_helper(self._loop, self._settings.runtime_api, self._answers)
        self._spares.pids.add(api_helper.child.pid)
        return api_helper

    def _ask_once(self, line: dict[str, Any], seconds: float | None) -> dict[str, Any]:
        self._answers.clear()
        self._api_helper.ask(line)
        deadline = None if seconds is None else self._loop.clock() + seconds
        answers, api_helper = self._answers, self._api_helper
        self._loop.wait(
            lambda: answers or api_helper.done or ("next" in line and self._stop_signal), deadline
        )
        if answers:
            return answers[0]
        if api_helper.done:
            api_helper.outcome()
        if self._stop_signal:
            return {}
        cause = "the Runtime API does not answer"
        raise AgentError(
            "serve AWS Lambda",
            cause,
            code=OS_ERROR,
            hint="check that AWS_LAMBDA_RUNTIME_API names a Lambda Runtime API",
        )


def refuse(loop: Loop, api: str, error: AgentError) -> None:
    """Report to Lambda why this environment can't serve: callers of the function get it."""
    answers: list[dict[str, Any]] = []
    helper = _api_helper(loop, api, answers)
    helper.ask({"init_failure": invocation.refusal(error)})
    loop.wait(lambda: answers or helper.done, loop.clock() + _POST_SECONDS)
    helper.close()


def _api_helper(loop: Loop, api: str, answers: list[dict[str, Any]]) -> Helper:
    # awslambdaric's own client reads the address from there.
    helper = Helper(loop, {"AWS_LAMBDA_RUNTIME_API": api}, "runtime_api")
    helper.begin("runtime_api", {"api": api}, answers.append)
    return helper


def _input_path(settings: Settings, uri: S3Uri) -> str:
    return settings.path(f"/tmp/input/{uri.key.rpartition('/')[2]}")
