"""The environment that a job is described by: every name, what it means, what holds without it.

`explain` and the reference are made from this table, and a test holds it against `settings`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Name:
    """One variable; `default` is prose, `secret` ones are never shown."""

    name: str
    meaning: str
    default: str = ""
    secret: bool = False


APPLICATION = (
    Name("EXEC_TYPE", "how to run: lambda, batch or shell, in any case", "the platform's own"),
    Name("APP_BIN", "the program; made executable if it is not", "/opt/simest"),
    Name("APP_PARAMS", "all its parameters, split as a shell does, never run through one"),
    Name(
        "APP_IN_FILE",
        "the older form, if APP_PARAMS is unset: APP_BIN APP_IN_FILE APP_PARAMS1 TMP_OUTPUT_DIR"
        " APP_PARAMS2; empty ones are dropped",
        "/opt/examples/example",
    ),
    Name("APP_PARAMS1", "the older form's first parameters"),
    Name("APP_PARAMS2", "the older form's last parameters"),
    Name("TMP_OUTPUT_DIR", "where results and time.log go", "lambda: /tmp, batch: /tmp/output"),
    Name("INPUT_FILE_PATH", "the object that started the job, set by the program that fetched it"),
    Name("TMP_INPUT_DIR", "its directory, set by faas-supervisor, which uploads results itself"),
)
DATA = (
    Name(
        "S3_BUCKET",
        "bucket of the archives and results, with an optional prefix",
        "s3://scar-architrave",
    ),
    Name(
        "S3_BATCH_DEPS_REL_PATH",
        "deps.tar.gz, or a deps_batch.lst, below it; <none> switches it off",
        "batch/deps.tar.gz",
    ),
    Name(
        "S3_BATCH_PRIVATE_REL_PATH",
        "private.7z below it; <none> switches it off",
        "batch/private.7z",
    ),
    Name("PRIVATE_PASSWD", "the archive's password; <none> or empty: none", secret=True),
    Name("PRIVATE_PASSWD_FILE", "a file whose first line is the password"),
    Name(
        "ARCHITRAVE_OUTPUT",
        "s3://bucket/prefix for results; <none>: nowhere",
        "batch: S3_BUCKET/output",
    ),
    Name("ARCHITRAVE_OUTPUT_EXCLUDE", "glob patterns of results not to upload, space-separated"),
)
SEVERAL_NODES = (
    Name(
        "SSH_PRIV_FILE_KEY",
        "the private key at the root of private.7z from which the job's keys are derived",
        "ssh_host_rsa_key",
    ),
    Name(
        "ARCHITRAVE_INTERFACE",
        "network interface for MPI and for this node's address",
        "the one that routes to the main node",
    ),
    Name("ARCHITRAVE_ADDRESS", "this node's address", "the interface's"),
    Name("ARCHITRAVE_SSH_PORT", "sshd's port", "22 as root, else 2222"),
    Name("ARCHITRAVE_JOIN_TIMEOUT_SECONDS", "how long nodes wait for each other", "600"),
    Name(
        "ARCHITRAVE_HEARTBEAT_SECONDS",
        "heartbeat interval; a node is lost after five missed heartbeats",
        "2",
    ),
)
RUNNING = (
    Name(
        "ARCHITRAVE_LAUNCHER",
        "auto, mpirun, direct, or each: every node starts the program with"
        " NODE_RANK, NODE_COUNT, MAIN_ADDR, HOSTFILE, MASTER_ADDR, MASTER_PORT, NNODES",
        "auto: mpirun on several nodes, or for a program that uses MPI; else direct",
    ),
    Name("ARCHITRAVE_MPIRUN_ARGS", "more arguments for mpirun"),
    Name(
        "ARCHITRAVE_SLOTS",
        "processes per node: a number, cores or threads",
        "GPUs, else usable processors; lambda: 1",
    ),
    Name(
        "ARCHITRAVE_WORKDIR",
        "the program's working directory, made if missing",
        "batch: TMP_OUTPUT_DIR, lambda: the image's",
    ),
    Name("ARCHITRAVE_TIMEOUT_SECONDS", "the program's time limit", "none"),
    Name("ARCHITRAVE_GRACE_SECONDS", "from SIGTERM to SIGKILL", "15"),
    Name(
        "ARCHITRAVE_HOLD_ON_FAILURE_SECONDS",
        "keep the container alive for debugging after a failure",
        "0",
    ),
    Name(
        "ARCHITRAVE_EVENT_ENV",
        "what a Lambda event may set: names or patterns, space-separated",
        "APP_IN_FILE APP_PARAMS APP_PARAMS1 APP_PARAMS2, and OpenMP's that only tune",
    ),
    Name(
        "AWS_BATCH_EXIT_CODE_FILE", "gets the job's exit code as a number", "/tmp/batch-exit-code"
    ),
    Name("ARCHITRAVE_LOG_FORMAT", "auto, console or json", "auto: console on a terminal"),
    Name("ARCHITRAVE_LOG_LEVEL", "debug, info, warning or error", "info"),
    Name(
        "ARCHITRAVE_ROOT",
        "a directory that all paths are relative to: several agents on one machine",
        "/",
    ),
)

EVERY = (*APPLICATION, *DATA, *SEVERAL_NODES, *RUNNING)


def unknown(env: Iterable[str]) -> dict[str, str]:
    """Return the variables that look like ours and are none, each with the name that is nearest."""
    known = [name.name for name in EVERY]
    strange = [name for name in sorted(env) if name.startswith("ARCHITRAVE_") and name not in known]
    return {name: "".join(difflib.get_close_matches(name, known, 1)) for name in strange}
