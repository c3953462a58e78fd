"""Make the minimal IAM policies of a job: for its job role, and for its execution role."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

from agent.core.errors import USAGE, AgentError
from agent.core.s3_uri import S3Uri
from agent.core.settings import PROBE, Settings
from agent.staging.packages import LISTING

_SUFFIX = re.compile(r"-[A-Za-z0-9]{6}$")
Fields = dict[str, Any]

# Where AWS Batch sends a container's output by default (using_awslogs).
LOG_GROUP = "/aws/batch/job"
# What a session of ECS Exec needs in the container (ECS developer guide, ecs-exec).
_EXEC = ("CreateControlChannel", "CreateDataChannel", "OpenControlChannel", "OpenDataChannel")


def job_policy(settings: Settings, *, listing: bool, execute_command: bool) -> Fields:
    """Return the policy of the job role: read the archives, write below the results' prefix.

    HEAD and GET are s3:GetObject; an upload, in parts or not, is s3:PutObject, and giving up its
    parts s3:AbortMultipartUpload. Each node deletes only the file with which it checks that it can
    write. Without s3:ListBucket S3 answers 403 for a missing object as for a forbidden one, so
    `listing` makes a job exit with 66 and look for a deps_batch.lst beside a missing archive.
    Raises AgentError (64) for a job that needs no policy.
    """
    statements = []
    archives = [uri for uri in (settings.private, settings.deps) if uri]
    if archives:
        objects = list(_archives(settings, listing))
        statements.append(_allow("Archives", ["s3:GetObject"], objects))
        if listing:
            buckets = [_arn(S3Uri(one.bucket)) for one in archives]
            statements.append(_allow("TellWhatIsMissing", ["s3:ListBucket"], buckets))
    if settings.output:
        below = _arn(settings.output)
        writes = ["s3:PutObject", "s3:AbortMultipartUpload"]
        statements.append(_allow("Results", writes, [f"{below}/*"]))
        statements.append(_allow("Probe", ["s3:DeleteObject"], [f"{below}/*/{PROBE}"]))
    if execute_command:
        # These have no resources that a policy could name.
        statements.append(
            _allow("ExecuteCommand", [f"ssmmessages:{name}" for name in _EXEC], ["*"])
        )
    return _policy(statements)


def execution_policy(log_group: str, secrets: Iterable[str]) -> Fields:
    """Return the policy of the execution role: write the log, read the secrets of these ARNs."""
    logs = f"arn:aws:logs:*:*:log-group:{_literal(log_group or LOG_GROUP)}:log-stream:*"
    statements = [_allow("Log", ["logs:CreateLogStream", "logs:PutLogEvents"], [logs])]
    # A reference may end with a key of the secret and a version; the secret's ARN doesn't.
    arns = [_whole(":".join(arn.split(":")[:7])) for arn in secrets]
    for sid, action, service in (
        ("Secrets", "secretsmanager:GetSecretValue", "secretsmanager"),
        ("Parameters", "ssm:GetParameters", "ssm"),
    ):
        of_service = [arn for arn in arns if arn.split(":")[2] == service]
        if of_service:
            statements.append(_allow(sid, [action], of_service))
    return _policy(statements)


def _archives(settings: Settings, listing: bool) -> Iterable[str]:
    if settings.private:
        yield _arn(settings.private)
    deps = settings.deps
    if deps is None:
        return
    yield _arn(deps)
    listed = deps.key.endswith(".lst")
    beside = S3Uri(deps.bucket, os.path.dirname(deps.key))
    if listing and not listed:
        yield _arn(beside / LISTING)
    if listed or listing:
        yield f"{_arn(beside)}/*.deb"


def _whole(arn: str) -> str:
    """Return a secret's ARN with the six characters that Secrets Manager adds to its name."""
    is_secret = arn.split(":")[2] == "secretsmanager"
    return f"{arn}-??????" if is_secret and not _SUFFIX.search(arn) else arn


def _arn(uri: S3Uri) -> str:
    return f"arn:aws:s3:::{uri.bucket}" + (f"/{_literal(uri.key)}" if uri.key else "")


def _literal(text: str) -> str:
    """Return a text whose `*`, `?` and `$` mean themselves (IAM user guide, policy variables)."""
    return "".join(f"${{{one}}}" if one in "*?$" else one for one in text)


def _allow(sid: str, actions: list[str], resources: list[str]) -> Fields:
    unique = list(dict.fromkeys(resources))
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": unique}


def _policy(statements: list[Fields]) -> Fields:
    if not statements:
        cause, hint = "the job uses no AWS service", "leave out --job-role: none is needed"
        raise AgentError("make the policy", cause, code=USAGE, hint=hint)
    return {"Version": "2012-10-17", "Statement": statements}
