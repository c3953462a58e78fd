"""Wait for AWS credentials as for S3. Runs in helper processes only, behind `s3`.

A container's credentials come from an endpoint of its own (AWS_CONTAINER_CREDENTIALS_*), which
throttles: botocore asks three times in two seconds and gives up, at the start of a job and at its
end, when results wait for upload. A temporary failure is retried; only a refusal is an error.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from agent.core.errors import NO_PERMISSION, S3_UNREACHABLE, AgentError
from agent.core.model import CREDENTIALS, Emit

_FIRST_PAUSE_SECONDS, _PAUSE_SECONDS = 1.0, 20.0
# botocore's own longest time: it asks three times.
_ATTEMPT_SECONDS = 15.0
_THROTTLED = {408, 429}
_PROVIDER = "container-role"


class Patience:
    """Asks for credentials until they arrive, for a limited number of seconds in total.

    A final failure is remembered: a thousand results don't wait for it one after the other.
    """

    def __init__(self, emit: Emit, seconds: float) -> None:
        self._emit = emit
        self._seconds = seconds
        self._failed: AgentError | None = None

    def resolve(self, session: Any) -> Any:
        """Return a boto3 session's credentials, None if there are none; those wait as well.

        Raises AgentError 69 when they don't arrive, 77 when they are refused, and what botocore
        raises for settings that are wrong.
        """
        found = self._ask(session.get_credentials)
        # Every request asks for them when it is signed; they renew themselves when they are due.
        renew = getattr(found, "_refresh_using", None)
        if renew is not None:
            found._refresh_using = partial(self._renew, found, renew)
        return found

    def _renew(self, found: Any, renew: Callable[[], Any]) -> Any:
        if not found.refresh_needed(found._mandatory_refresh_timeout):
            return renew()  # botocore continues with those that it has
        return self._ask(renew)

    def _ask(self, get: Callable[[], Any]) -> Any:
        if self._failed is not None:
            raise self._failed
        start, pause = time.monotonic(), _FIRST_PAUSE_SECONDS
        deadline = start + self._seconds
        while True:
            try:
                found = get()
            except Exception as error:
                cause = _not_now(error)
                if cause is None:
                    raise
                if pause == _FIRST_PAUSE_SECONDS and self._seconds:
                    event = {"log": "warning", "event": "credentials_awaited"}
                    self._emit(event | {"cause": cause, "gives_up_after_seconds": self._seconds})
                # Full jitter: all nodes of a job ask at the same moment.
                wait = random.uniform(pause / 2, pause)
                if time.monotonic() + wait + _ATTEMPT_SECONDS > deadline:
                    self._failed = AgentError(CREDENTIALS, cause, code=S3_UNREACHABLE, hint=_HINT)
                    raise self._failed from error
                time.sleep(wait)
                pause = min(2 * pause, _PAUSE_SECONDS)
                continue
            if pause > _FIRST_PAUSE_SECONDS:
                seconds = round(time.monotonic() - start, 3)
                self._emit({"event": "credentials_received", "seconds": seconds})
            return found


_HINT = "retry the job; if it persists, check the Amazon ECS agent on this machine"


def _not_now(error: Exception) -> str | None:
    """Return the cause where asking again may help, else None; raise AgentError for a refusal."""
    from botocore.exceptions import (
        ClientError,
        ConnectionError,
        CredentialRetrievalError,
        HTTPClientError,
    )

    text = str(error)
    if isinstance(error, ClientError):  # of STS, for a role by a web identity
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    elif isinstance(error, CredentialRetrievalError) and error.kwargs.get("provider") == _PROVIDER:
        found = re.search(r"non 200 response (\d+)", text)
        status = int(found[1]) if found else 0
    elif isinstance(error, KeyError):
        return f"the answer has no {error}"
    elif isinstance(error, ConnectionError | HTTPClientError):
        status = 0
    else:
        return None
    if 400 <= status < 500 and status not in _THROTTLED and "Throttl" not in text:
        hint = "check the job's role (jobRoleArn), and that AWS Batch may assume it"
        raise AgentError(CREDENTIALS, text, code=NO_PERMISSION, hint=hint) from error
    return text
