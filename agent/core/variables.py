"""The environment variables that describe a job: each one is declared here, once.

Settings, `explain`, `doctor`, `generate`, the reference and the redaction of the log read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.core import values
from agent.core.errors import BAD_SETTINGS, AgentError, bad

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The value that switches a step off; the empty string does too.
NONE = "<none>"
OFF = ("", NONE)


@dataclass(frozen=True)
class Variable:
    """One variable: `parse` turns its text into a value, and raises `values.Invalid`.

    `default` is the value if it is unset or empty; `default_help` describes a default that depends
    on other settings. `secret`: the value is never shown. `hidden`: the application does not see
    it. `any_bytes`: need not be UTF-8, for example a path.
    """

    name: str
    help: str
    default: Any = ""
    default_help: str = ""
    parse: values.Parser = values.text
    secret: bool = False
    hidden: bool = False
    any_bytes: bool = False

    def read(self, env: Mapping[str, str]) -> Any:
        """Return its value; raise AgentError (78) that names the variable and what it is set to."""
        given = env.get(self.name, "")
        if not given:
            return self.default
        try:
            return self.parse(given)
        except values.Invalid as error:
            hint = error.hint or f"correct {self.name}"
            if self.secret:
                what = f"use {self.name}"
                raise AgentError(what, str(error), code=BAD_SETTINGS, hint=hint) from error
            raise bad(self.name, given, str(error), hint) from error

    @property
    def default_text(self) -> str:
        """Return the default as the help shows it, empty for none."""
        if self.default_help or self.default in ("", ()):
            return self.default_help
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)


def _password(given: str) -> str:
    if cause := values.flaw(given):
        raise values.Invalid(cause, "choose another password, and pack private.7z again")
    return "" if given in OFF else given


EXEC_TYPE = Variable(
    "EXEC_TYPE",
    "how to run: lambda, batch or shell, in any case",
    default_help="the platform's own",
)
APP_BIN = Variable("APP_BIN", "the program; made executable if it is not", "/opt/simest")
APP_PARAMS = Variable(
    "APP_PARAMS",
    "all its parameters, split as a shell does, never run through one",
    (),
    parse=values.argv,
)
APP_IN_FILE = Variable(
    "APP_IN_FILE",
    "the older form, if APP_PARAMS is unset: APP_BIN APP_IN_FILE APP_PARAMS1 TMP_OUTPUT_DIR"
    " APP_PARAMS2; empty ones are dropped",
    "/opt/examples/example",
)
APP_PARAMS1 = Variable("APP_PARAMS1", "the older form's first parameters", (), parse=values.argv)
APP_PARAMS2 = Variable("APP_PARAMS2", "the older form's last parameters", (), parse=values.argv)
TMP_OUTPUT_DIR = Variable(
    "TMP_OUTPUT_DIR",
    "where results and time.log go",
    default_help="lambda: /tmp, batch: /tmp/output",
    any_bytes=True,
)
INPUT_FILE_PATH = Variable(
    "INPUT_FILE_PATH",
    "the object that started the job, set by the program that fetched it",
    any_bytes=True,
)
TMP_INPUT_DIR = Variable(
    "TMP_INPUT_DIR",
    "its directory, set by faas-supervisor, which uploads results itself",
    any_bytes=True,
)
APPLICATION = (
    *(EXEC_TYPE, APP_BIN, APP_PARAMS, APP_IN_FILE, APP_PARAMS1, APP_PARAMS2),
    *(TMP_OUTPUT_DIR, INPUT_FILE_PATH, TMP_INPUT_DIR),
)

S3_BUCKET = Variable(
    "S3_BUCKET",
    "bucket of the archives and results, with an optional prefix",
    "s3://scar-architrave",
)
DEPS = Variable(
    "S3_BATCH_DEPS_REL_PATH",
    "deps.tar.gz, or a deps_batch.lst, below it; <none> switches it off",
    "batch/deps.tar.gz",
)
PRIVATE = Variable(
    "S3_BATCH_PRIVATE_REL_PATH",
    "private.7z below it; <none> switches it off",
    "batch/private.7z",
)
PRIVATE_PASSWD = Variable(
    "PRIVATE_PASSWD",
    "the archive's password; <none> or empty: none",
    parse=_password,
    secret=True,
    hidden=True,
)
PRIVATE_PASSWD_FILE = Variable(
    "PRIVATE_PASSWD_FILE", "a file whose first line is the password", hidden=True, any_bytes=True
)
OUTPUT = Variable(
    "ARCHITRAVE_OUTPUT",
    "s3://bucket/prefix for results; <none>: nowhere",
    default_help="batch: S3_BUCKET/output",
)
OUTPUT_EXCLUDE = Variable(
    "ARCHITRAVE_OUTPUT_EXCLUDE",
    "glob patterns of results not to upload, space-separated: *.tmp scratch/ ./run/*.bin",
    (),
    parse=values.patterns,
    any_bytes=True,
)
DATA = (S3_BUCKET, DEPS, PRIVATE, PRIVATE_PASSWD, PRIVATE_PASSWD_FILE, OUTPUT, OUTPUT_EXCLUDE)

SSH_KEY = Variable(
    "SSH_PRIV_FILE_KEY",
    "the private key at the root of private.7z from which the job's keys are derived",
    "ssh_host_rsa_key",
)
INTERFACE = Variable(
    "ARCHITRAVE_INTERFACE",
    "network interface for MPI and for this node's address",
    default_help="the one that routes to the main node",
)
ADDRESS = Variable("ARCHITRAVE_ADDRESS", "this node's address", default_help="the interface's")
SSH_PORT = Variable(
    "ARCHITRAVE_SSH_PORT",
    "sshd's port",
    0,
    "22 as root, else 2222",
    parse=values.integer(1, 65535),
)
JOIN_TIMEOUT = Variable(
    "ARCHITRAVE_JOIN_TIMEOUT_SECONDS",
    "how long nodes wait for each other",
    600.0,
    parse=values.seconds,
)
HEARTBEAT = Variable(
    "ARCHITRAVE_HEARTBEAT_SECONDS",
    "heartbeat interval; a node is lost after five missed heartbeats",
    2.0,
    parse=values.seconds,
)
SEVERAL_NODES = (SSH_KEY, INTERFACE, ADDRESS, SSH_PORT, JOIN_TIMEOUT, HEARTBEAT)

LAUNCHER = Variable(
    "ARCHITRAVE_LAUNCHER",
    "auto, mpirun, direct, or each: every node starts the program with"
    " NODE_RANK, NODE_COUNT, MAIN_ADDR, HOSTFILE, MASTER_ADDR, MASTER_PORT, NNODES",
    "auto",
    "auto: mpirun on several nodes, or for a program that uses MPI; else direct",
    parse=values.choice("auto", "mpirun", "direct", "each"),
)
MPIRUN_ARGS = Variable("ARCHITRAVE_MPIRUN_ARGS", "more arguments for mpirun", (), parse=values.argv)
SLOTS = Variable(
    "ARCHITRAVE_SLOTS",
    "processes per node: a number, cores or threads",
    0,
    "GPUs, else usable processors; lambda: 1",
    parse=values.slots,
)
WORKDIR = Variable(
    "ARCHITRAVE_WORKDIR",
    "the program's working directory, made if missing",
    default_help="batch: TMP_OUTPUT_DIR, lambda: the image's",
    any_bytes=True,
)
STDIN = Variable(
    "ARCHITRAVE_STDIN",
    "a file that the program reads as standard input, rank 0 under MPI",
    default_help="/dev/null",
    any_bytes=True,
)
ULIMITS = Variable(
    "ARCHITRAVE_ULIMITS",
    "resource limits of the program on every node, in the form of docker run --ulimit,"
    " space-separated: stack=unlimited core=0 nofile=1024:65536",
    (),
    "as inherited",
    parse=values.ulimits,
)
TIMEOUT = Variable(
    "ARCHITRAVE_TIMEOUT_SECONDS", "the program's time limit", 0.0, "none", parse=values.seconds
)
GRACE = Variable(
    "ARCHITRAVE_GRACE_SECONDS", "from SIGTERM to SIGKILL", 15.0, parse=values.seconds_or_none
)
HOLD = Variable(
    "ARCHITRAVE_HOLD_ON_FAILURE_SECONDS",
    "keep the container alive for debugging after a failure",
    0.0,
    parse=values.seconds_or_none,
)
EVENT_ENV = Variable(
    "ARCHITRAVE_EVENT_ENV",
    "what a Lambda event may set: names or patterns, space-separated",
    default_help="APP_IN_FILE APP_PARAMS APP_PARAMS1 APP_PARAMS2, and OpenMP's that only tune",
)
EXIT_CODE_FILE = Variable(
    "AWS_BATCH_EXIT_CODE_FILE",
    "gets the job's exit code as a number",
    default_help="/tmp/batch-exit-code",
    any_bytes=True,
)
LOG_FORMAT = Variable(
    "ARCHITRAVE_LOG_FORMAT",
    "auto, console or json",
    "auto",
    "auto: console on a terminal",
    parse=values.choice("auto", "console", "json"),
)
LOG_LEVEL = Variable(
    "ARCHITRAVE_LOG_LEVEL",
    "debug, info, warning or error",
    "info",
    parse=values.choice("debug", "info", "warning", "error"),
)
ROOT = Variable(
    "ARCHITRAVE_ROOT",
    "a directory that all paths are relative to: several agents on one machine",
    "/",
    any_bytes=True,
)
RUNNING = (
    *(LAUNCHER, MPIRUN_ARGS, SLOTS, WORKDIR, STDIN, ULIMITS, TIMEOUT, GRACE, HOLD, EVENT_ENV),
    *(EXIT_CODE_FILE, LOG_FORMAT, LOG_LEVEL, ROOT),
)
# What users may set, by topic.
GROUPS = {
    "application": APPLICATION,
    "data": DATA,
    "several nodes": SEVERAL_NODES,
    "running": RUNNING,
}
EVERY = tuple(one for group in GROUPS.values() for one in group)

# Set by AWS Batch (docs.aws.amazon.com/batch/latest/userguide/job_env_vars.html) and AWS Lambda.
JOB_ID = Variable("AWS_BATCH_JOB_ID", "the job")
JOB_ATTEMPT = Variable(
    "AWS_BATCH_JOB_ATTEMPT", "counts the job's attempts", 1, parse=values.integer(1)
)
NUM_NODES = Variable("AWS_BATCH_JOB_NUM_NODES", "how many nodes", 1, parse=values.integer(1))
NODE_INDEX = Variable("AWS_BATCH_JOB_NODE_INDEX", "this node", parse=values.integer(0))
MAIN_NODE_INDEX = Variable(
    "AWS_BATCH_JOB_MAIN_NODE_INDEX", "the main node", 0, parse=values.integer(0)
)
MAIN_NODE_ADDRESS = Variable(
    "AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS", "the main node's address, on workers only"
)
RUNTIME_API = Variable("AWS_LAMBDA_RUNTIME_API", "the address of the Lambda Runtime API")
# The agent's credentials, by the AWS SDK's names.
CREDENTIALS = (
    Variable("AWS_ACCESS_KEY_ID", "the key's id", hidden=True),
    Variable("AWS_SECRET_ACCESS_KEY", "the key", secret=True, hidden=True),
    Variable("AWS_SESSION_TOKEN", "the token of a role's session", secret=True, hidden=True),
    Variable("AWS_CONTAINER_AUTHORIZATION_TOKEN", "for a role", secret=True, hidden=True),
)
# What the application must not see, and the secrets among these.
HIDDEN = tuple(one.name for one in (*EVERY, *CREDENTIALS) if one.hidden)
SECRET = tuple(one.name for one in (*EVERY, *CREDENTIALS) if one.secret)


def unknown(env: Iterable[str]) -> dict[str, str]:
    """Return the unknown variables with our prefix, each with the most similar name."""
    known = [one.name for one in EVERY]
    strange = [name for name in sorted(env) if name.startswith("ARCHITRAVE_") and name not in known]
    if not strange:
        return {}
    import difflib  # not for most jobs

    return {name: "".join(difflib.get_close_matches(name, known, 1)) for name in strange}
