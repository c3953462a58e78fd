"""Make a job definition for AWS Batch on EC2, with retry rules from the table of exit codes.

An application that exits with a code of the agent's own (69, 75) is retried too: AWS Batch sees
only the code, not its source.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.core import exit_codes
from agent.core.deadlines import STOP_SECONDS
from agent.core.errors import BUG, USAGE, AgentError
from agent.core.exit_codes import ExitCode
from agent.core.settings import Settings
from agent.tools.generate.variables import settings_on

Fields = dict[str, Any]

# AWS Batch user guide, job_retries, job_timeouts, service_limits.
_MAX_RULES, _MAX_ATTEMPTS, _MIN_TIMEOUT, _MAX_BYTES = 5, 10, 60, 24 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
# AWS Batch's minimum for a container (job_definition_parameters, resourceRequirements).
_MIN_MEMORY = 4
# For fetching and unpacking the archives; not known before.
_STAGING_SECONDS = 60
_LIMITS = (
    *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc"),
    *("rss", "rtprio", "rttime", "sigpending", "stack"),
)


@dataclass(frozen=True)
class Wanted:
    """The values of a definition. `timeout` is in seconds, `memory` in MiB, 0 means absent.

    `shared_memory` is in MiB, 0 for half of the memory; `ulimits` are (soft, hard) by name.
    """

    image: str
    name: str = "architrave"
    nodes: int = 1
    main_index: int = 0
    vcpus: int = 1
    memory: int = 2048
    timeout: int = 0
    attempts: int = 3
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    job_role: str = ""
    execution_role: str = ""
    log_group: str = ""
    shared_memory: int = 0
    ulimits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    execute_command: bool = False


def job_definition(wanted: Wanted) -> Fields:
    """Return what `aws batch register-job-definition --cli-input-json` takes.

    Raises AgentError: 64 for what AWS Batch would refuse, 78 for what the job would refuse.
    """
    _check(wanted)
    settings = settings_on(wanted.env, wanted.nodes, wanted.main_index)
    env = dict(wanted.env)
    made: Fields = {
        "jobDefinitionName": wanted.name,
        "retryStrategy": {
            "attempts": wanted.attempts,
            "evaluateOnExit": retry_rules(exit_codes.EVERY),
        },
    }
    if wanted.timeout:
        env["ARCHITRAVE_TIMEOUT_SECONDS"] = _time_limit(wanted.timeout, settings)
        made["timeout"] = {"attemptDurationSeconds": wanted.timeout}
    container = _container(wanted, env)
    if wanted.nodes > 1:
        made["type"] = "multinode"
        made["nodeProperties"] = {
            "numNodes": wanted.nodes,
            "mainNode": wanted.main_index,
            "nodeRangeProperties": [{"targetNodes": "0:", "container": container}],
        }
    else:
        made |= {"type": "container", "platformCapabilities": ["EC2"]}
        made["containerProperties"] = container
    size = len(json.dumps(made).encode())
    if size > _MAX_BYTES:
        cause = f"{size} bytes, and AWS Batch allows {_MAX_BYTES}"
        raise AgentError("make the definition", cause, code=USAGE, hint="set fewer variables")
    return made


def limit_of(made: Fields) -> str:
    """Return the application's time limit in a definition, empty without one."""
    ranges = made.get("nodeProperties", {}).get("nodeRangeProperties", [])
    container = ranges[0]["container"] if ranges else made["containerProperties"]
    env = {one["name"]: one["value"] for one in container["environment"]}
    return str(env.get("ARCHITRAVE_TIMEOUT_SECONDS", ""))


def retry_rules(table: Iterable[ExitCode]) -> list[dict[str, str]]:
    """Return rules, of which the first that matches decides: retry where that can help, else exit.

    Raises AgentError (70) if AWS Batch doesn't allow so many.
    """
    rules = [{"onExitCode": str(one.code), "action": "RETRY"} for one in table if one.again]
    # Not the job's fault: its instance is gone, to the Spot market or with its hardware.
    rules.append({"onStatusReason": "Host EC2*", "action": "RETRY"})
    # AWS Batch retries what no rule matches (EvaluateOnExit).
    rules.append({"onReason": "*", "action": "EXIT"})
    if len(rules) > _MAX_RULES:
        cause = f"{len(rules)} rules are needed, and AWS Batch takes {_MAX_RULES}"
        raise AgentError("make retry rules", cause, code=BUG, hint="report it")
    return rules


def _check(wanted: Wanted) -> None:
    if not _NAME.fullmatch(wanted.name):
        cause = "AWS Batch takes up to 128 letters, digits, hyphens and underscores"
        raise _unusable("name", wanted.name, cause, "for example --name my-job")
    _check_number("vcpus", wanted.vcpus, 1)
    _check_number("memory", wanted.memory, _MIN_MEMORY)
    _check_number("shared-memory", wanted.shared_memory, 0)
    _check_number("attempts", wanted.attempts, 1, _MAX_ATTEMPTS)
    if twice := sorted(wanted.env.keys() & wanted.secrets.keys()):
        raise _unusable("secret", twice[0], "also given with -e", "remove one of them")
    if wanted.secrets and not wanted.execution_role:
        cause = "secrets are fetched with the execution role, and none is named"
        hint = "--execution-role ARN; its policy: generate iam-policy --role execution"
        raise _unusable("secret", next(iter(wanted.secrets)), cause, hint)


def _check_number(option: str, value: int, minimum: int, maximum: float = math.inf) -> None:
    if not minimum <= value <= maximum:
        limits = f"from {minimum} to {maximum}" if maximum < math.inf else f"of {minimum} or more"
        hint = f"for example --{option} {max(minimum, 1)}"
        raise _unusable(option, value, f"not a whole number {limits}", hint)


def _time_limit(timeout: int, settings: Settings) -> str:
    """Return the application's time limit in seconds, such that it comes before AWS Batch's own.

    AWS Batch counts from the start of the container, the agent from the application's: before it
    come the archives and, with several nodes, the wait for the last of them. After it the
    application has its grace period, and the results the time that they would have after SIGTERM.
    """
    around = _STAGING_SECONDS + settings.limits.grace + STOP_SECONDS
    if settings.topology.count > 1:
        around += settings.network.join_timeout
    maximum = math.floor(timeout - around)
    minimum = max(_MIN_TIMEOUT, math.ceil(around + max(settings.limits.timeout, 1)))
    if timeout < minimum:
        own = f" of {settings.limits.timeout:g} s" if settings.limits.timeout else ""
        cause = (
            f"staging and upload take up to {around:g} s: too short for the program's limit{own}"
        )
        raise _unusable("timeout", timeout, cause, f"--timeout {minimum} or more")
    return f"{settings.limits.timeout:.10g}" if settings.limits.timeout else str(maximum)


def _container(wanted: Wanted, env: Mapping[str, str]) -> Fields:
    made: Fields = {
        "image": wanted.image,
        "resourceRequirements": [
            {"type": "VCPU", "value": str(wanted.vcpus)},
            {"type": "MEMORY", "value": str(wanted.memory)},
        ],
        "environment": [{"name": name, "value": value} for name, value in env.items()],
        # Ranks on a node communicate through /dev/shm, of which a container has 64 MiB. Half of the
        # memory is what Linux gives a tmpfs; it is a limit, nothing is reserved. No Docker
        # init: the agent is one.
        "linuxParameters": {"sharedMemorySize": wanted.shared_memory or wanted.memory // 2},
    }
    if wanted.ulimits:
        made["ulimits"] = [
            {"name": name, "softLimit": soft, "hardLimit": hard}
            for name, (soft, hard) in wanted.ulimits.items()
        ]
    if wanted.secrets:
        made["secrets"] = [{"name": k, "valueFrom": arn} for k, arn in wanted.secrets.items()]
    if wanted.job_role:
        made["jobRoleArn"] = wanted.job_role
    if wanted.execution_role:
        made["executionRoleArn"] = wanted.execution_role
    if wanted.log_group:
        options = {"awslogs-group": wanted.log_group, "awslogs-stream-prefix": wanted.name}
        made["logConfiguration"] = {"logDriver": "awslogs", "options": options}
    if wanted.execute_command:
        made["enableExecuteCommand"] = True
    return made


def ulimit(text: str) -> tuple[str, tuple[int, int]]:
    """Parse NAME=SOFT[:HARD], -1 for unlimited, as in docker run; raise AgentError (64)."""
    name, _, values = text.partition("=")
    soft, _, hard = values.partition(":")
    try:
        limits = int(soft), int(hard or soft)
    except ValueError:
        limits = -2, -2
    if name not in _LIMITS or min(limits) < -1 or (limits[1] != -1 and limits[0] > limits[1]):
        hint = "for example --ulimit nofile=65536 or --ulimit memlock=-1"
        raise _unusable("ulimit", text, "not NAME=SOFT[:HARD]", hint)
    return name, limits


def _unusable(option: str, value: object, cause: str, hint: str) -> AgentError:
    return AgentError(f"use --{option} {value}", cause, code=USAGE, hint=hint)
