"""The command `architrave generate`: print a definition."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from agent.core import exit_codes
from agent.core.errors import NOT_FOUND, USAGE, AgentError
from agent.core.s3_uri import S3Uri
from agent.tools.cluster.job import DEFAULT_IMAGE, Job
from agent.tools.commands.options import Commands, Parser, command, group, write
from agent.tools.generate import compose, iam_policy, job_definition, scar
from agent.tools.generate.variables import secrets, settings_on, variables

_JOB = """\
  architrave generate job-definition --image URI --nodes 3 -e APP_BIN=/opt/app
"""
_POLICY = """\
  architrave generate iam-policy -e S3_BUCKET=s3://bucket
  architrave generate iam-policy --role execution --secret PRIVATE_PASSWD=ARN
"""
_COMPOSE = """\
  architrave generate compose --nodes 3 --private private.7z \\
      -e APP_BIN=/opt/app --to compose.yaml
"""
_SCAR = """\
  architrave generate scar batch --image URI --bucket bucket --nodes 3 \\
      --script ../docker/opt/run_batch.sh --to batch.yaml
"""


def add(commands: Commands) -> None:
    """Add `generate` with its commands."""
    summary = "print a job definition, an IAM policy, a compose or a SCAR file"
    generate = group(commands, "generate", summary, _JOB + _POLICY)
    _add_job_definition(generate)
    _add_iam_policy(generate)
    _add_compose(generate)
    _add_scar(generate)


def _add_job_definition(generate: Commands) -> None:
    summary = "print a job definition for AWS Batch on EC2 (not Fargate)"
    one = command(generate, "job-definition", summary, _JOB, _job_definition)
    one.usage = "architrave generate job-definition [OPTION]…"
    one.description = None  # with it the help would not fit a screen
    one.add_argument(
        "--image", required=True, metavar="URI", help="image in a registry; for EC2, not Fargate"
    )
    one.add_argument("--name", default="architrave", help="name of the definition (architrave)")
    _add_nodes(one)
    _add_size(one, 2048)
    one.add_argument("--timeout", type=int, default=0, metavar="SECONDS",
                     help="limit of an attempt; the program's is below it")  # fmt: skip
    again = ", ".join(str(code.code) for code in exit_codes.EVERY if code.again)
    one.add_argument("--attempts", type=int, default=3, metavar="N",
                     help=f"max attempts (3); retried after {again}")  # fmt: skip
    _add_variables(one)
    _add_secrets(one)
    one.add_argument("--job-role", default="", metavar="ARN", help="role of the job, for S3")
    one.add_argument("--execution-role", default="", metavar="ARN", help="fetches the secrets")
    _add_log_group(one)
    one.add_argument("--shared-memory", type=int, default=0, metavar="MIB",
                     help="size of /dev/shm (half of --memory)")  # fmt: skip
    one.add_argument("--ulimit", action="append", default=[], metavar="NAME=N[:N]",
                     help="limit SOFT[:HARD], as docker run --ulimit")  # fmt: skip
    _add_exec(one)
    _add_to(one)


def _add_iam_policy(generate: Commands) -> None:
    summary = "print the minimal IAM policy of a job or execution role"
    one = command(generate, "iam-policy", summary, _POLICY, _iam_policy)
    one.usage = "architrave generate iam-policy [OPTION]…"
    one.add_argument("--role", choices=("job", "execution"), default="job",
                     help="job (S3), or execution (log and secrets)")  # fmt: skip
    _add_variables(one)
    one.add_argument("--list-bucket", action="store_true",
                     help="allow s3:ListBucket: a missing archive is 404, not 403")  # fmt: skip
    _add_exec(one)
    _add_secrets(one)
    _add_log_group(one)
    _add_to(one)


def _add_compose(generate: Commands) -> None:
    summary = "print a compose file that rehearses a job of AWS Batch"
    one = command(generate, "compose", summary, _COMPOSE, _compose)
    one.usage = "architrave generate compose [OPTION]…"
    one.add_argument(
        "--image", default=DEFAULT_IMAGE, metavar="TAG", help=f"image ({DEFAULT_IMAGE})"
    )
    _add_nodes(one)
    one.add_argument("--private", type=Path, metavar="FILE", help="private.7z")
    one.add_argument("--deps", type=Path, metavar="FILE", help="deps.tar.gz")
    _add_variables(one)
    one.add_argument("--subnet", default=compose.SUBNET, metavar="A.B.C",
                     help=f"of the nodes ({compose.SUBNET})")  # fmt: skip
    _add_to(one)


def _add_scar(generate: Commands) -> None:
    one = command(generate, "scar", "print a file for scar init -f", _SCAR, _scar)
    one.usage = "architrave generate scar batch|lambda [OPTION]…"
    one.add_argument("mode", choices=scar.MODES, help="where the jobs run: batch, lambda")
    one.add_argument(
        "--image",
        required=True,
        metavar="URI",
        help="lambda: docker save archive",
    )
    one.add_argument("--bucket", required=True, metavar="S3", help="bucket with input/ and output/")
    one.add_argument("--script", required=True, metavar="FILE", help="script for the container")
    one.add_argument("--name", help="name of the function (architrave-MODE)")
    _add_nodes(one)
    _add_size(one, 1024)
    one.add_argument("--timeout", type=int, default=120, metavar="SECONDS",
                     help="lambda: the function's (120)")  # fmt: skip
    _add_variables(one)
    _add_to(one)


def _add_nodes(one: Parser) -> None:
    one.add_argument("--nodes", type=int, default=1, metavar="N", help="number of nodes (1)")
    one.add_argument(
        "--main-index", type=int, default=0, metavar="K", help="index of the main node (0)"
    )


def _add_size(one: Parser, memory: int) -> None:
    one.add_argument("--vcpus", type=int, default=1, metavar="N", help="vCPUs per node (1)")
    one.add_argument("--memory", type=int, default=memory, metavar="MIB",
                     help=f"memory per node ({memory})")  # fmt: skip


def _add_variables(one: Parser) -> None:
    one.add_argument(
        "-e", "--env", action="append", default=[], metavar="K=V", help="variable of the job"
    )


def _add_secrets(one: Parser) -> None:
    one.add_argument("--secret", action="append", default=[], metavar="NAME=ARN",
                     help="variable from Secrets Manager or SSM")  # fmt: skip


def _add_log_group(one: Parser) -> None:
    one.add_argument("--log-group", default="", metavar="NAME",
                     help=f"in CloudWatch ({iam_policy.LOG_GROUP})")  # fmt: skip


def _add_exec(one: Parser) -> None:
    one.add_argument("--exec", action="store_true", help="allow ECS Exec, a shell in the job")


def _add_to(one: Parser) -> None:
    one.add_argument(
        "--to", type=Path, metavar="FILE", help="output file (default: standard output)"
    )


def _job_definition(options: argparse.Namespace) -> int:
    wanted = job_definition.Wanted(
        image=options.image,
        name=options.name,
        nodes=options.nodes,
        main_index=options.main_index,
        vcpus=options.vcpus,
        memory=options.memory,
        timeout=options.timeout,
        attempts=options.attempts,
        env=variables(options.env, secret_hint="--secret NAME=ARN"),
        secrets=secrets(options.secret),
        job_role=options.job_role,
        execution_role=options.execution_role,
        log_group=options.log_group,
        shared_memory=options.shared_memory,
        ulimits=dict(map(job_definition.ulimit, options.ulimit)),
        execute_command=options.exec,
    )
    made = job_definition.job_definition(wanted)
    if wanted.nodes > 1:
        _note("the nodes' security group must let them reach each other on all TCP ports")
    if limit := job_definition.limit_of(made):
        _note(f"the program's own time limit is {limit} s, to leave time for the upload")
    return _write(_json(made), options.to)


def _note(text: str) -> None:
    """Report what is not in the definition, on standard error."""
    print(f"note: {text}", file=sys.stderr)


def _iam_policy(options: argparse.Namespace) -> int:
    named = secrets(options.secret)
    if options.role == "execution":
        policy = iam_policy.execution_policy(options.log_group, named.values())
    else:
        env = variables(options.env, secret_hint="leave it out: no policy needs it")
        if not env.get("S3_BUCKET"):
            cause, hint = "no bucket is named", "-e S3_BUCKET=s3://bucket"
            raise AgentError("make the policy", cause, code=USAGE, hint=hint)
        policy = iam_policy.job_policy(
            settings_on(env), listing=options.list_bucket, execute_command=options.exec
        )
    return _write(_json(policy), options.to)


def _compose(options: argparse.Namespace) -> int:
    job = Job(
        nodes=options.nodes,
        main_index=options.main_index,
        image=options.image,
        private=options.private,
        deps=options.deps,
        env=variables(options.env, secret_hint="export it before docker-compose up"),
    )
    job.check_objects()
    return _write(compose.HEADER + _yaml(compose.compose(job, options.subnet)), options.to)


def _scar(options: argparse.Namespace) -> int:
    wanted = scar.Wanted(
        mode=options.mode,
        name=options.name or f"architrave-{options.mode}",
        image=options.image,
        bucket=S3Uri.parse(options.bucket, "--bucket"),
        script=options.script,
        nodes=options.nodes,
        main_index=options.main_index,
        vcpus=options.vcpus,
        memory=options.memory,
        timeout=options.timeout,
        env=variables(options.env, secret_hint="export it in the script that is uploaded"),
    )
    return _write(_yaml(scar.scar(wanted)), options.to)


def _json(made: dict[str, Any]) -> str:
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def _yaml(made: dict[str, Any]) -> str:
    try:
        import yaml
    except ImportError as error:
        what, cause = "write YAML", "the package PyYAML is missing"
        hint = "pip install 'architrave[local]'"
        raise AgentError(what, cause, code=NOT_FOUND, hint=hint) from error
    dumper: Any = type("Dumper", (yaml.SafeDumper,), {})
    dumper.add_representer(str, _represent)
    text: str = yaml.dump(made, Dumper=dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def _represent(dumper: Any, text: str) -> Any:
    """Show a text of several lines as lines."""
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _write(text: str, path: Path | None) -> int:
    if path is None:
        sys.stdout.write(text)
        return 0
    write(path, text)
    return 0
