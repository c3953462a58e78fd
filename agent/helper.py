"""Be a helper process: read a request, run the task it names, tell how it went."""

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


def task_named(name: str) -> Callable[..., dict[str, Any]]:
    """Return the function behind a task's name, importing only what that one needs."""
    if name.startswith("stage_"):
        from agent.staging import stage_in

        tasks = (stage_in.stage_in, stage_in.stage_input, stage_in.stage_out)
        return {task.__name__: task for task in tasks}[name]
    if name == "speak":
        from agent.awslambda import api_client

        return api_client.speak
    if name == "report":
        from agent.report import page

        return page.report
    if name == "record":
        from agent.report import writer

        return writer.record
    from agent.multinode import helper_tasks

    return {"join": helper_tasks.join, "tell": helper_tasks.tell}[name]


def main() -> None:
    """Run the task that a JSON line on standard input names; answers go to standard output.

    helper.py NAME: the task's; `spare` is one that has imported what takes long before the line
    comes.
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
