"""Read the environment, once, into a value that is passed on."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.core import event_variables
from agent.core.environ import exit_code_file, runtime_dir
from agent.core.errors import BAD_SETTINGS, NO_PERMISSION, USAGE, AgentError, bad
from agent.core.model import Topology
from agent.core.s3place import S3Place
from agent.core.values import choice, flaw, integer, is_text, seconds, words

LAMBDA, BATCH, SHELL = "lambda", "batch", "shell"
OFF = ("", "<none>")
LAUNCHERS = ("auto", "mpirun", "direct", "each")
SLOTS = ("cores", "threads")
# The object by which a node tries whether it can write its results.
PROBE = ".write-probe"
EXAMPLE = "/opt/examples/example"
LOG_FORMATS = ("auto", "console", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")

# What the agent needs and the application must not see.
SECRETS = (
    "PRIVATE_PASSWD",
    "PRIVATE_PASSWD_FILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
)
# Text in UTF-8, unlike paths.
_TEXTS = ("ARCHITRAVE_", "AWS_", "S3_", "PRIVATE_", "SSH_PRIV_FILE_KEY")
_PATHS = (
    *("ARCHITRAVE_ROOT", "ARCHITRAVE_WORKDIR", "ARCHITRAVE_OUTPUT_EXCLUDE"),
    *("AWS_BATCH_EXIT_CODE_FILE", "PRIVATE_PASSWD_FILE"),
)


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on. Times are in seconds; empty text means absent."""

    mode: str
    topology: Topology
    command: tuple[str, ...]
    root: str
    output_dir: str
    workdir: str
    deps: S3Place | None
    private: S3Place | None
    output: S3Place | None
    exclude: tuple[str, ...]
    key_name: str
    exit_code_file: str
    launcher: str
    mpirun_args: tuple[str, ...]
    slots: int | str
    interface: str
    address: str
    ssh_port: int
    join_timeout: float
    heartbeat: float
    timeout: float
    grace: float
    hold: float
    log_format: str
    log_level: str
    staging_asked: bool
    runtime_api: str
    event_env: tuple[str, ...]
    app_env: dict[str, str] = field(repr=False)
    helper_env: dict[str, str] = field(repr=False)
    password: str = field(repr=False)

    def path(self, absolute: str) -> str:
        """Return where one of the contract's paths is: below `root` when that is not `/`."""
        return os.path.join(self.root, absolute.lstrip("/"))

    @property
    def place(self) -> S3Place | None:
        """Return where this attempt's results go on S3."""
        job = f"{self.topology.job}/attempt-{self.topology.attempt}"
        return self.output / job if self.output else None

    @property
    def probe(self) -> S3Place | None:
        """Return the object by which this node tries whether its results can be written."""
        return self.place / f"node-{self.topology.index}/{PROBE}" if self.place else None

    @property
    def runtime_dir(self) -> str:
        """Return the agent's own directory (0700): keys, sshd's configuration, downloads."""
        return runtime_dir(self.root)


def read(env: Mapping[str, str]) -> Settings:
    """Turn an environment into settings.

    Raises AgentError: 64 for EXEC_TYPE, 78 for any other value, 77 for an unreadable password.
    """
    mode = mode_of(env)
    _check_text(env)
    root = env.get("ARCHITRAVE_ROOT") or "/"
    if not os.path.isabs(root):
        raise bad("ARCHITRAVE_ROOT", root, "not an absolute path", "use an absolute path")
    bucket = S3Place.parse(env.get("S3_BUCKET") or "s3://scar-architrave", "S3_BUCKET")
    usual = _below(root, "/tmp" if mode == LAMBDA else "/tmp/output")
    # The application may be started in another directory than the agent.
    output_dir = os.path.abspath(env.get("TMP_OUTPUT_DIR") or usual)
    return Settings(
        mode=mode,
        topology=_topology(env),
        command=_command(env, root, output_dir),
        root=root,
        output_dir=output_dir,
        workdir=_workdir(env, mode, output_dir),
        deps=_place(env, bucket, mode, "S3_BATCH_DEPS_REL_PATH", "batch/deps.tar.gz"),
        private=_place(env, bucket, mode, "S3_BATCH_PRIVATE_REL_PATH", "batch/private.7z"),
        output=_output(env, mode, bucket),
        exclude=tuple(env.get("ARCHITRAVE_OUTPUT_EXCLUDE", "").split()),
        key_name=env.get("SSH_PRIV_FILE_KEY") or "ssh_host_rsa_key",
        exit_code_file=exit_code_file(env),
        launcher=choice(env, "ARCHITRAVE_LAUNCHER", LAUNCHERS),
        mpirun_args=words(env, "ARCHITRAVE_MPIRUN_ARGS"),
        slots=_slots(env),
        interface=env.get("ARCHITRAVE_INTERFACE", ""),
        address=env.get("ARCHITRAVE_ADDRESS", ""),
        ssh_port=integer(
            env, "ARCHITRAVE_SSH_PORT", 22 if os.geteuid() == 0 else 2222, minimum=1, maximum=65535
        ),
        join_timeout=seconds(env, "ARCHITRAVE_JOIN_TIMEOUT_SECONDS", 600),
        heartbeat=seconds(env, "ARCHITRAVE_HEARTBEAT_SECONDS", 2),
        timeout=seconds(env, "ARCHITRAVE_TIMEOUT_SECONDS", 0),
        grace=seconds(env, "ARCHITRAVE_GRACE_SECONDS", 15, zero=True),
        hold=seconds(env, "ARCHITRAVE_HOLD_ON_FAILURE_SECONDS", 0, zero=True),
        log_format=choice(env, "ARCHITRAVE_LOG_FORMAT", LOG_FORMATS),
        log_level=choice(env, "ARCHITRAVE_LOG_LEVEL", LOG_LEVELS, "info"),
        staging_asked=bool(
            env.keys() & {"S3_BUCKET", "S3_BATCH_DEPS_REL_PATH", "S3_BATCH_PRIVATE_REL_PATH"}
            or mode == BATCH
        ),
        runtime_api=runtime_api(env, mode),
        event_env=event_variables.read(env),
        app_env=_app_env(env, mode, output_dir),
        helper_env={
            k: v for k, v in env.items() if k not in ("PRIVATE_PASSWD", "PRIVATE_PASSWD_FILE")
        },
        password=_password(env),
    )


def _check_text(env: Mapping[str, str]) -> None:
    """Raise AgentError (78) for a value of ours that is not text; a path may be any bytes."""
    for name, value in env.items():
        if name.startswith(_TEXTS) and name not in _PATHS and not is_text(value):
            cause, hint = "not valid UTF-8", f"set {name} again, in a UTF-8 locale"
            if name in SECRETS:
                raise AgentError(f"use {name}", cause, code=BAD_SETTINGS, hint=hint)
            raise bad(name, value, cause, hint)


def secrets_of(settings: Settings) -> tuple[str, ...]:
    """Return the values that no log may show."""
    names = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN")
    values = (settings.password, *(settings.helper_env.get(name, "") for name in names))
    return tuple(value for value in values if value)


def _workdir(env: Mapping[str, str], mode: str, output_dir: str) -> str:
    """Return the application's working directory, empty for the one that the agent was given."""
    given = env.get("ARCHITRAVE_WORKDIR") or ("" if mode == LAMBDA else output_dir)
    return os.path.abspath(given) if given else ""


def _below(root: str, path: str) -> str:
    return os.path.join(root, path.lstrip("/"))


def mode_of(env: Mapping[str, str]) -> str:
    """Return how to run, by EXEC_TYPE or the platform; raise AgentError (64)."""
    given = env.get("EXEC_TYPE", "")
    if given:
        if given.lower() in (LAMBDA, BATCH, SHELL):
            return given.lower()
        raise bad("EXEC_TYPE", given, "valid are lambda, batch, shell", "set one of them", USAGE)
    if env.get("AWS_BATCH_JOB_ID"):
        return BATCH
    # AWS_LAMBDA_FUNCTION_NAME decides nothing: SCAR sets it in Batch jobs too.
    if env.get("AWS_LAMBDA_RUNTIME_API"):
        return LAMBDA
    raise AgentError(
        "choose how to run",
        "EXEC_TYPE is not set, and neither AWS Batch nor AWS Lambda started this container",
        code=USAGE,
        hint="docker run -e EXEC_TYPE=lambda (or batch, shell) …",
    )


def runtime_api(env: Mapping[str, str], mode: str) -> str:
    """Return the address of the Lambda Runtime API that this agent serves, empty for none.

    faas-supervisor, which sets the other two, serves it itself and starts a job for each call.
    """
    served = env.get("TMP_INPUT_DIR") or env.get("INPUT_FILE_PATH") or mode != LAMBDA
    return "" if served else env.get("AWS_LAMBDA_RUNTIME_API", "")


def _command(env: Mapping[str, str], root: str, output_dir: str) -> tuple[str, ...]:
    """Return the application and its parameters, split as a shell does."""
    app_bin = _application(env.get("APP_BIN") or "/opt/simest", root)
    if "APP_PARAMS" in env:
        return (app_bin, *words(env, "APP_PARAMS"))
    in_file = env.get("APP_IN_FILE", _below(root, EXAMPLE))
    older = (in_file, *words(env, "APP_PARAMS1"), output_dir, *words(env, "APP_PARAMS2"))
    return (app_bin, *(word for word in older if word))


def _application(app_bin: str, root: str) -> str:
    """Return where APP_BIN is: below `root` when private.7z is unpacked there."""
    return _below(root, app_bin) if root != "/" and app_bin.startswith("/opt/") else app_bin


def _place(
    env: Mapping[str, str], bucket: S3Place, mode: str, name: str, default: str
) -> S3Place | None:
    relative = env.get(name, default)
    if relative in OFF or mode == LAMBDA:  # Lambda's image has everything in it
        return None
    key = S3Place.parse(f"{bucket.bucket}/{relative}", name).key
    return bucket / key


def _output(env: Mapping[str, str], mode: str, bucket: S3Place) -> S3Place | None:
    given = env.get("ARCHITRAVE_OUTPUT")
    if given is not None:
        return None if given in OFF else S3Place.parse(given, "ARCHITRAVE_OUTPUT")
    # TMP_INPUT_DIR is faas-supervisor's: it uploads TMP_OUTPUT_DIR itself.
    return bucket / "output" if mode == BATCH and not env.get("TMP_INPUT_DIR") else None


def _password(env: Mapping[str, str]) -> str:
    path = env.get("PRIVATE_PASSWD_FILE", "")
    if path:
        try:
            with open(path, encoding="utf-8") as file:
                return file.readline().rstrip("\r\n")
        except (OSError, UnicodeError) as error:
            cause = getattr(error, "strerror", None) or str(error)
            hint = "check the file named by PRIVATE_PASSWD_FILE"
            raise bad("PRIVATE_PASSWD_FILE", path, cause, hint, NO_PERMISSION) from error
    given = env.get("PRIVATE_PASSWD", "")
    if cause := flaw(given):
        hint = "choose another password, and pack private.7z again"
        raise AgentError("use PRIVATE_PASSWD", cause, code=BAD_SETTINGS, hint=hint)
    return "" if given in OFF else given


def _topology(env: Mapping[str, str]) -> Topology:
    """Read Batch's node variables; absent ones mean a single node."""
    job = env.get("AWS_BATCH_JOB_ID", "").partition("#")[0]
    if {"/", ".."} & {job, *job} or job.startswith("."):
        raise bad("AWS_BATCH_JOB_ID", job, "not a job id", "leave it to AWS Batch")
    attempt = integer(env, "AWS_BATCH_JOB_ATTEMPT", 1, minimum=1)
    count = integer(env, "AWS_BATCH_JOB_NUM_NODES", 1, minimum=1)
    if count == 1:
        return Topology(job or f"local-{os.urandom(6).hex()}", attempt)
    if not job:
        raise bad("AWS_BATCH_JOB_ID", "", "several nodes need it", "give all nodes the same id")
    main = integer(env, "AWS_BATCH_JOB_MAIN_NODE_INDEX", 0, minimum=0, maximum=count - 1)
    index = integer(env, "AWS_BATCH_JOB_NODE_INDEX", None, minimum=0, maximum=count - 1)
    address = env.get("AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS", "")
    if index != main and not address:
        name = "AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS"
        raise bad(name, "", "a worker needs it", "leave it to AWS Batch")
    return Topology(job, attempt, index, count, main, "" if index == main else address)


def _app_env(env: Mapping[str, str], mode: str, output_dir: str) -> dict[str, str]:
    """Return the application's environment: the given one, less secrets, plus the contract's."""
    app = {name: value for name, value in env.items() if name not in SECRETS}
    app["TMP_OUTPUT_DIR"] = output_dir
    try:
        user = pwd.getpwuid(os.geteuid())
        name, home = user.pw_name, user.pw_dir
    except KeyError:
        name, home = str(os.geteuid()), "/tmp"
    for key, value in (("USER", name), ("HOME", home), ("LANG", "C.UTF-8")):
        app.setdefault(key, value)
    if mode == LAMBDA:
        app["OMPI_MCA_plm_rsh_agent"] = "/bin/false"
    return app


def _slots(env: Mapping[str, str]) -> int | str:
    given = env.get("ARCHITRAVE_SLOTS", "")
    return given if given in SLOTS else integer(env, "ARCHITRAVE_SLOTS", 0, minimum=1)
