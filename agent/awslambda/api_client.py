"""Call the AWS Lambda Runtime API with awslambdaric. Runs in a helper process only."""

from __future__ import annotations

import json
import sys
from typing import Any

from agent.core.errors import BAD_SETTINGS, OS_ERROR, AgentError
from agent.core.model import Emit


def runtime_api(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Fetch invocations and post their answers, as requested by lines on standard input.

    `request`: api, HOST:PORT. Lines: {"next": true}, answered by {"invocation": {"id", "deadline"
    (seconds since 1970), "event" (text), "trace"}}; {"id", "answer"}; {"id", "failure"};
    {"init_failure"}. Each of the last three is answered by {"posted": true}. Raises AgentError 71
    when the API is gone, 78 without awslambdaric.
    """
    try:
        from awslambdaric.lambda_runtime_client import LambdaRuntimeClient
    except ImportError as error:
        hint = "pip install architrave[lambda], or use the image"
        cause = "awslambdaric is not installed"
        raise AgentError("serve AWS Lambda", cause, code=BAD_SETTINGS, hint=hint) from error
    client = LambdaRuntimeClient(request["api"])
    try:
        for line in sys.stdin:
            emit(_obey(client, json.loads(line)))
    except Exception as error:  # the client raises what its C++ code and http.client raise
        hint = "AWS_LAMBDA_RUNTIME_API must name a server of the Lambda Runtime API"
        raise AgentError("serve AWS Lambda", str(error), code=OS_ERROR, hint=hint) from error
    return {}


def _obey(client: Any, line: dict[str, Any]) -> dict[str, Any]:
    if "next" in line:
        invocation = client.wait_next_invocation()
        return {
            "invocation": {
                "id": invocation.invoke_id,
                "deadline": float(invocation.deadline_time_in_ms) / 1000,
                "event": (invocation.event_body or b"").decode("utf-8", "replace"),
                "trace": invocation.x_amzn_trace_id,
            }
        }
    if "answer" in line:
        try:
            client.post_invocation_result(line["id"], json.dumps(line["answer"]))
        except Exception as error:  # too large, for example: a failure is better than silence
            cause = {"errorType": "AgentFailed", "errorMessage": f"cannot post the answer: {error}"}
            client.post_invocation_error(line["id"], json.dumps(cause), "")
    elif "failure" in line:
        client.post_invocation_error(line["id"], json.dumps(line["failure"]), "")
    else:
        client.post_init_error(line["init_failure"])
    return {"posted": True}
