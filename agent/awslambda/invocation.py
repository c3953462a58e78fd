"""Read what an invocation of a Lambda function asks for, plan its time, and make the answer."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.awslambda import events
from agent.core import event_variables
from agent.core.errors import USAGE, AgentError, shorten
from agent.core.model import APPLICATION, Outcome
from agent.core.s3_uri import S3Uri

# Reserved for the answer itself; Lambda kills the environment at the deadline.
_ANSWER_SECONDS = 0.5
# For the upload: a tenth of the time, within these limits and never more than a third of it.
_SHARE, _MIN_UPLOAD_SECONDS, _MAX_UPLOAD_SECONDS = 0.1, 1.0, 10.0
# After the application's exit, for its last output.
_LAST_OUTPUT_SECONDS = 0.2
# An answer has at most 6 MB (AWS Lambda quotas); the manifest on S3 has every file.
_MAX_FILES = 1000


@dataclass(frozen=True)
class Request:
    """What one invocation asks for; `env` overrides the function's own environment."""

    input: S3Uri | None
    env: dict[str, str]


@dataclass(frozen=True)
class Budget:
    """The time of one invocation, in seconds from its arrival.

    The application gets SIGTERM at `application` and is killed `grace` later; the upload begins at
    `upload`, and what is not on S3 by `answer` is named in the answer as missing.
    """

    application: float
    grace: float
    upload: float
    answer: float


def read(event: str, allowed: Iterable[str]) -> Request | str:
    """Return what an event asks for, or a note why there is nothing to run.

    An object on S3 is the input. A custom event may have `params` (text or a list of
    arguments), `input` and `output` (s3://bucket/key), and `env`, whose names `allowed` must allow.
    Raises AgentError (64).
    """
    opened = events.open_event(event)
    if opened.note:
        return opened.note
    if opened.object is not None:
        bucket, key = opened.object
        return Request(_with_a_name(S3Uri(bucket, key), f"s3://{bucket}/{key}"), {})
    given = opened.own
    env = _env(given, list(allowed))
    if "params" in given:
        env["APP_PARAMS"] = _params(given["params"])
    if "output" in given:
        env["ARCHITRAVE_OUTPUT"] = str(_uri(given, "output"))
    return Request(_uri(given, "input") if "input" in given else None, env)


def budget(remaining: float, grace: float) -> Budget:
    """Plan an invocation that has `remaining` seconds; `grace` is the user's own."""
    remaining = max(remaining, 0.0)
    share = min(max(_SHARE * remaining, _MIN_UPLOAD_SECONDS), _MAX_UPLOAD_SECONDS)
    answer = max(remaining - _ANSWER_SECONDS, 0.0)
    upload = max(answer - min(share, remaining / 3), 0.0)
    grace = min(grace, _SHARE * remaining)
    return Budget(max(upload - grace - _LAST_OUTPUT_SECONDS, 0.0), grace, upload, answer)


def answer(
    outcome: Outcome,
    times: Mapping[str, float],
    uri: S3Uri | None,
    uploaded: Mapping[str, Any],
    last_lines: list[str],
) -> dict[str, Any]:
    """Return the JSON that the caller gets; for a failure also with Lambda's own fields."""
    files, failed = uploaded["files"], [one["name"] for one in uploaded["failed"]]
    answer: dict[str, Any] = {
        "exit_code": outcome.code,
        "source": outcome.source,
        "times": dict(times),
        "output": str(uri) if uri else None,
        "files": files[:_MAX_FILES],
        "file_count": uploaded.get("count", len(files)),
        "missing": failed[:_MAX_FILES],
        "last_lines": last_lines,
    }
    if outcome.code:
        by_application = outcome.source == APPLICATION
        kind = "ApplicationFailed" if by_application else "AgentFailed"
        answer |= {"errorType": kind, "errorMessage": outcome.cause, "hint": outcome.hint}
    return answer


def refusal(error: AgentError) -> dict[str, Any]:
    """Return the JSON for an invocation, or a whole environment, in which nothing could run."""
    return {
        "exit_code": error.code,
        "errorType": "AgentFailed",
        "errorMessage": str(error),
        "hint": error.hint,
    }


def _uri(given: Mapping[str, Any], name: str) -> S3Uri:
    value = given[name]
    if not isinstance(value, str) or not value.startswith("s3://"):
        raise _bad(name, f"{_shown(value)} is not an S3 URI", "use s3://bucket/key")
    uri = S3Uri.parse(value, name)
    if name == "output":
        return uri
    # Unchanged: a prefix is normalised, a key isn't.
    key = value.removeprefix("s3://").partition("/")[2]
    return _with_a_name(S3Uri(uri.bucket, key), value)


def _with_a_name(uri: S3Uri, shown: str) -> S3Uri:
    """Refuse an object that can't be a file in the input directory."""
    name = uri.key.rpartition("/")[2]
    if name in ("", ".", "..") or not _is_text(name):
        raise _bad("the input", f"{_shown(shown)} names no file", "send an object, not a folder")
    return uri


def _params(value: Any) -> str:
    if isinstance(value, str) and _is_text(value):
        return value
    if isinstance(value, list) and all(isinstance(one, str | int | float) for one in value):
        arguments = [str(one) for one in value]
        if all(map(_is_text, arguments)):
            return shlex.join(arguments)
    raise _bad("params", f"{_shown(value)} is neither text nor a list of arguments")


def _env(given: Mapping[str, Any], allowed: list[str]) -> dict[str, str]:
    env = given.get("env", {})
    if not isinstance(env, dict):
        raise _bad("env", f"{_shown(env)} is not an object of names and values")
    for name, value in env.items():
        if not event_variables.allows(name, allowed):
            hint = event_variables.advice(name, allowed)
            raise _bad("env", f"{_shown(name)} may not be set by an event", hint)
        if not name or "=" in name or not _is_text(name):
            raise _bad("env", f"{_shown(name)} is not a name", "give it a name without =")
        if not isinstance(value, str) or not _is_text(value):
            cause = f"the value of {name} is not text: {_shown(value)}"
            raise _bad("env", cause, "put it into quotes")
    return dict(env)


def _is_text(value: str) -> bool:
    """Return whether it can be passed to a program: no NUL, and only what UTF-8 can encode."""
    return "\0" not in value and value == value.encode("utf-8", "replace").decode("utf-8")


def _shown(value: Any) -> str:
    """Return a value shortened for an error: an event can have 6 MB."""
    text = value if isinstance(value, str) and value.startswith("s3://") else repr(value)
    return shorten(text)


def _bad(what: str, cause: str, hint: str = "see the documentation of events") -> AgentError:
    return AgentError(f"use {what}", cause, code=USAGE, hint=hint)
