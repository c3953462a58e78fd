"""Be a helper process: read a request, run the task it names, send the result."""

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

# The agent's interpreter runs isolated, so its own package is named here.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from agent.core.errors import BUG, AgentError
from agent.core.model import Emit
from agent.engine.process_name import name_process


def task_named(name: str) -> Callable[..., dict[str, Any]]:
    """Return a task's function, and import only what it needs."""
    if name.startswith("stage_"):
        tasks = (stage_in, stage_input, stage_out)
        return {task.__name__: task for task in tasks}[name]
    if name == "runtime_api":
        from agent.awslambda import api_client

        return api_client.runtime_api
    if name == "report":
        from agent.report import page

        return page.report
    if name == "record":
        from agent.report import writer

        return writer.record
    from agent.multinode import helper_tasks

    return {"join": helper_tasks.join, "announce": helper_tasks.announce}[name]


def stage_in(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Fetch, unpack and install; then make the keys of a node that will join others.

    `request`: see `stage_in.stage_in`, and identity (null on a single node, else see
    `ssh_keys.prepare`).
    """
    from agent.staging import stage_in

    answer = stage_in.stage_in(request, emit)
    if request["identity"]:
        from agent.multinode import ssh_keys

        ssh_keys.prepare(request["identity"])
    return answer


def stage_input(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Fetch the object of an event."""
    from agent.staging import stage_in

    return stage_in.stage_input(request, emit)


def stage_out(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Upload results and, once it is asked for, the record."""
    from agent.report import writer
    from agent.staging import stage_out

    return stage_out.stage_out(request, emit, writer.write)


def main() -> None:
    """Run the task that a JSON line on standard input names; answers go to standard output.

    helper.py NAME: the task's name; a `spare` helper imports what takes long before the line
    arrives.
    """
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # A library that prints must not break the protocol.
    os.dup2(2, 1)

    turn = threading.Lock()

    def emit(message: dict[str, Any]) -> None:
        with turn:
            out.write(json.dumps(message) + "\n")
            out.flush()

    try:
        task = sys.argv[1]
        name_process(f"architrave-{task}")
        if task == "spare":
            from agent.staging import s3

            s3.load()
        task, request = json.loads(sys.stdin.readline())
        emit({"result": task_named(task)(request, emit)})
    except AgentError as error:
        emit({"error": error.to_json()})
    except BaseException as error:
        traceback.print_exc()
        cause = f"{type(error).__name__}: {error}"
        bug = AgentError(f"run {task}", cause, code=BUG, hint="report it with the log")
        emit({"error": bug.to_json()})
    # Threads that still wait for a network are not waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
