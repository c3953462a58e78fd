"""Make a file for SCAR: a function that submits jobs to AWS Batch, or one that runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.core.errors import USAGE, AgentError
from agent.core.s3_uri import S3Uri
from agent.core.settings import BATCH, LAMBDA, read
from agent.core.variables import DEPS, NONE
from agent.tools.generate.variables import settings_on

Fields = dict[str, Any]

MODES = (BATCH, LAMBDA)
# SCAR's own default, python3.7, is no longer accepted by AWS Lambda.
_RUNTIME = "python3.11"
_MAX_SECONDS = 900  # a Lambda function's (Lambda developer guide, quotas)


@dataclass(frozen=True)
class Wanted:
    """The values of the file. `memory` is in MiB, `timeout` the Lambda function's, in seconds.

    `script` is the file that runs in the container, as seen from the YAML file: with batch the one
    that runs the uploaded script, with lambda the script itself. `image` is one that AWS Batch can
    pull, or for lambda the file that `docker save` wrote.
    """

    mode: str
    name: str
    image: str
    bucket: S3Uri
    script: str
    nodes: int = 1
    main_index: int = 0
    vcpus: int = 1
    memory: int = 1024
    timeout: int = 120
    env: Mapping[str, str] = field(default_factory=dict)


def scar(wanted: Wanted) -> Fields:
    """Return SCAR's file; raise AgentError: 64 for bad arguments, 78 for invalid settings."""
    for option, value in (("vcpus", wanted.vcpus), ("memory", wanted.memory)):
        if value < 1:
            hint = f"for example --{option} {1 if option == 'vcpus' else 1024}"
            raise AgentError(f"use --{option} {value}", "too small", code=USAGE, hint=hint)
    env = {"EXEC_TYPE": wanted.mode, **wanted.env}
    if env["EXEC_TYPE"].lower() != wanted.mode:
        cause = f"the file is for {wanted.mode}"
        raise AgentError("use -e EXEC_TYPE", cause, code=USAGE, hint="leave it out")
    return _batch(wanted, env) if wanted.mode == BATCH else _lambda(wanted, env)


def _batch(wanted: Wanted, env: dict[str, str]) -> Fields:
    # Only an application that brings packages of its own needs deps.tar.gz.
    env = {"S3_BUCKET": str(wanted.bucket), DEPS.name: NONE} | env
    settings_on(env, wanted.nodes, wanted.main_index)
    function = {
        "name": wanted.name,
        "execution_mode": "batch",
        "runtime": _RUNTIME,
        "init_script": wanted.script,
        "container": {"image": wanted.image, "environment": {"Variables": env}},
        "input": [_storage(wanted.bucket / "input")],
        "output": [_storage(wanted.bucket / "output")],
    }
    batch = {
        "vcpus": wanted.vcpus,
        "memory": wanted.memory,
        "multi_node_parallel": {
            "enabled": wanted.nodes > 1,
            "number_nodes": wanted.nodes,
            "main_node_index": wanted.main_index,
        },
        # Every node is an instance of its own, and all of them run at once.
        "compute_resources": {"max_v_cpus": wanted.nodes * wanted.vcpus},
    }
    return {"functions": {"aws": [{"lambda": function, "batch": batch}]}}


def _lambda(wanted: Wanted, env: dict[str, str]) -> Fields:
    if not 1 <= wanted.timeout <= _MAX_SECONDS:
        cause = f"AWS Lambda takes from 1 to {_MAX_SECONDS}"
        hint = "for example --timeout 120"
        raise AgentError(f"use --timeout {wanted.timeout}", cause, code=USAGE, hint=hint)
    if wanted.nodes != 1:
        hint = "--nodes 1, or scar batch"
        raise AgentError(
            f"use --nodes {wanted.nodes}", "a function is one node", code=USAGE, hint=hint
        )
    read(env)
    function = {
        "name": wanted.name,
        "memory": wanted.memory,
        "timeout": wanted.timeout,
        "runtime": _RUNTIME,
        # The same file twice: for every event, and for scar run.
        "init_script": wanted.script,
        "run_script": wanted.script,
        "container": {"image_file": wanted.image, "environment": {"Variables": env}},
        # A package of more than 50 MB reaches a function through a bucket.
        "deployment": {"bucket": wanted.bucket.bucket},
        "output": [_storage(wanted.bucket / "output")],
    }
    return {"functions": {"aws": [{"lambda": function}]}}


def _storage(uri: S3Uri) -> Fields:
    return {"storage_provider": "s3", "path": str(uri).removeprefix("s3://")}
