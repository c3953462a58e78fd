"""Find the exact command that opens a shell in this container."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
from collections.abc import Mapping
from typing import Any

# The agent's directory in every image, on the PATH or not.
_PROGRAM = "/opt/architrave/bin/architrave"
_METADATA = "ECS_CONTAINER_METADATA_URI_V4"
_ANSWER_SECONDS = 2.0
# The engine mounts the files of a container's own name and addresses from a directory named by it.
_CONTAINER = re.compile(r"/containers/([0-9a-f]{64})/")


def attach_command(env: Mapping[str, str], mounts: str = "/proc/self/mountinfo") -> str:
    """Return the command that opens a shell beside this job.

    In a task of Amazon ECS, as AWS Batch starts it, `aws ecs execute-command` (needs
    enableExecuteCommand in the job definition); in another container `docker exec`.
    """
    program = _PROGRAM if os.path.exists(_PROGRAM) else "architrave"
    task = _ecs_task(env.get(_METADATA, ""))
    if task:
        cluster, arn, name = (shlex.quote(word) for word in task)
        return (
            f"aws ecs execute-command --cluster {cluster} --task {arn} --container {name}"
            f" --interactive --command '{program} shell'"
        )
    if program != _PROGRAM:
        return "architrave local shell"  # a node that is a process on the user's machine
    found = None
    with contextlib.suppress(OSError), open(mounts, encoding="utf-8", errors="replace") as file:
        found = _CONTAINER.search(file.read())
    return f"docker exec -it {found[1][:12] if found else 'CONTAINER'} {program} shell"


def _ecs_task(address: str) -> tuple[str, str, str] | None:
    """Return cluster, task and container as the Amazon ECS agent names them, if it answers.

    https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4.html
    """
    if not address:
        return None
    try:
        container, task = _get(address), _get(f"{address}/task")
        return str(task["Cluster"]), str(task["TaskARN"]), str(container["Name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _get(address: str) -> dict[str, Any]:
    from urllib.request import urlopen  # only for a job that is held

    with urlopen(address, timeout=_ANSWER_SECONDS) as answer:
        content: dict[str, Any] = json.loads(answer.read(1 << 16))
    return content
