"""Be AWS Lambda for one event.

function.py ACCOUNT.json EVENT handler    call the function as Lambda does, print its answer
function.py ACCOUNT.json EVENT command    run what it would start in udocker, end with its code

The function's code is in /var/task, as AWS Lambda unpacks it; EVENT is JSON.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace


def context(function):
    """Return a function's environment as AWS Lambda sets it."""
    name = function["FunctionName"]
    return SimpleNamespace(
        memory_limit_in_mb=str(function["MemorySize"]),
        aws_request_id="1f00e4a5-3a46-4d12-8b4f-3a1b0a1d2f6e",
        function_name=name,
        log_group_name=f"/aws/lambda/{name}",
        log_stream_name="2026/01/01/[$LATEST]0",
        invoked_function_arn=function["FunctionArn"],
        get_remaining_time_in_millis=lambda: 1000 * function["Timeout"],
    )


def handle(function, event):
    """Call the function's handler, and print its answer as one line."""
    module, _, name = function["Handler"].rpartition(".")
    answer = getattr(importlib.import_module(module), name)(event, context(function))
    print(json.dumps(answer))
    return 0


def command(function, event):
    """Do what the handler does, up to the container's end: its exit code is lost after that."""
    from faassupervisor.faas.aws_lambda.function import LambdaInstance
    from faassupervisor.faas.aws_lambda.udocker import Udocker
    from faassupervisor.supervisor import Supervisor

    supervisor = Supervisor(event, context(function))
    udocker = Udocker(LambdaInstance(event, context(function)))
    udocker.prepare_container()
    code = subprocess.run(udocker.cont_cmd, check=False).returncode
    print(sorted(os.listdir(supervisor.output_tmp_dir.name)), file=sys.stderr)
    return code


def main(account, event, way):
    (function,) = json.loads(Path(account).read_text())["functions"]
    os.environ |= function["Environment"]["Variables"]
    os.environ["AWS_EXECUTION_ENV"] = f"AWS_Lambda_{function['Runtime']}"
    os.chdir("/var/task")
    sys.path.insert(0, "/var/task")
    return {"handler": handle, "command": command}[way](function, json.loads(event))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
