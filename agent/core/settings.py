"""Read the environment, once, into a value that is passed on."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agent.core import event_variables, topology
from agent.core import variables as v
from agent.core.environ import exit_code_file, runtime_dir
from agent.core.errors import BAD_SETTINGS, NO_PERMISSION, USAGE, AgentError, bad
from agent.core.model import Topology
from agent.core.s3_uri import S3Uri
from agent.core.values import is_text

LAMBDA, BATCH, SHELL = "lambda", "batch", "shell"
# A node writes this object to check whether it can write its results.
PROBE = ".write-probe"
# Variables with these prefixes must be UTF-8, except those with `any_bytes`.
_TEXTS = ("ARCHITRAVE_", "AWS_", "S3_", "PRIVATE_", "SSH_PRIV_FILE_KEY")
_ANY_BYTES = {one.name for one in v.EVERY if one.any_bytes}


@dataclass(frozen=True)
class Network:
    """How nodes reach each other, and how long they wait for each other, in seconds."""

    key_name: str
    interface: str
    address: str
    ssh_port: int
    join_timeout: float
    heartbeat: float


@dataclass(frozen=True)
class Launch:
    """How the application is started. No `workdir`: in the directory that the agent was given.

    `stdin` is a file, relative to the working directory, empty for none; of a resource limit
    `ulimits` has the name and the soft and hard value, -1 for unlimited.
    """

    launcher: str
    mpirun_args: tuple[str, ...]
    slots: int | str
    workdir: str
    stdin: str
    ulimits: tuple[tuple[str, int, int], ...]

    @property
    def keeps_cores(self) -> bool:
        """Return whether core dumps are asked for, by their limit."""
        return any(name == "core" and soft for name, soft, _ in self.ulimits)


@dataclass(frozen=True)
class Limits:
    """The application's time limit (0: none) and grace period; how long a failed node is held."""

    timeout: float
    grace: float
    hold: float


@dataclass(frozen=True)
class LogSettings:
    """How the agent logs."""

    format: str
    level: str


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on. Times are in seconds; empty text means absent."""

    mode: str
    topology: Topology
    command: tuple[str, ...]
    root: str
    output_dir: str
    deps: S3Uri | None
    private: S3Uri | None
    output: S3Uri | None
    exclude: tuple[str, ...]
    exit_code_file: str
    network: Network
    launch: Launch
    limits: Limits
    log: LogSettings
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
    def results_uri(self) -> S3Uri | None:
        """Return where this attempt's results go on S3."""
        job = f"{self.topology.job}/attempt-{self.topology.attempt}"
        return self.output / job if self.output else None

    @property
    def probe(self) -> S3Uri | None:
        """Return the object that this node writes to check whether its results can be written."""
        return self.results_uri and self.results_uri / f"node-{self.topology.index}/{PROBE}"

    @property
    def runtime_dir(self) -> str:
        """Return the agent's own directory (0700): keys, sshd's configuration, downloads."""
        return runtime_dir(self.root)

    @property
    def batch_dir(self) -> str:
        """Return where the readiness files are; /tmp/batch is a link to it."""
        return os.path.join(self.runtime_dir, "batch")


def read(env: Mapping[str, str]) -> Settings:
    """Turn an environment into settings.

    Raises AgentError: 64 for EXEC_TYPE, 78 for any other value, 77 for an unreadable password.
    """
    mode = mode_of(env)
    _check_text(env)
    root = v.ROOT.read(env)
    if not os.path.isabs(root):
        raise bad(v.ROOT.name, root, "not an absolute path", "use an absolute path")
    bucket = S3Uri.parse(v.S3_BUCKET.read(env), v.S3_BUCKET.name)
    usual = _below(root, "/tmp" if mode == LAMBDA else "/tmp/output")
    # The application may be started in another directory than the agent.
    output_dir = os.path.abspath(v.TMP_OUTPUT_DIR.read(env) or usual)
    workdir = _workdir(env, mode, output_dir)
    staging = {v.S3_BUCKET.name, v.DEPS.name, v.PRIVATE.name}
    passwords = (v.PRIVATE_PASSWD.name, v.PRIVATE_PASSWD_FILE.name)
    return Settings(
        mode=mode,
        topology=topology.read(env, several=mode != LAMBDA),
        command=_command(env, root, output_dir, workdir),
        root=root,
        output_dir=output_dir,
        deps=_archive(env, bucket, mode, v.DEPS),
        private=_archive(env, bucket, mode, v.PRIVATE),
        output=_output(env, mode, bucket),
        exclude=v.OUTPUT_EXCLUDE.read(env),
        exit_code_file=exit_code_file(env),
        network=Network(
            key_name=v.SSH_KEY.read(env),
            interface=v.INTERFACE.read(env),
            address=v.ADDRESS.read(env),
            ssh_port=v.SSH_PORT.read(env) or (22 if os.geteuid() == 0 else 2222),
            join_timeout=v.JOIN_TIMEOUT.read(env),
            heartbeat=v.HEARTBEAT.read(env),
        ),
        launch=Launch(
            launcher=v.LAUNCHER.read(env),
            mpirun_args=v.MPIRUN_ARGS.read(env),
            slots=v.SLOTS.read(env),
            workdir=workdir,
            stdin=_application(v.STDIN.read(env), root),
            ulimits=v.ULIMITS.read(env),
        ),
        limits=Limits(v.TIMEOUT.read(env), v.GRACE.read(env), v.HOLD.read(env)),
        log=LogSettings(v.LOG_FORMAT.read(env), v.LOG_LEVEL.read(env)),
        staging_asked=bool(env.keys() & staging or mode == BATCH),
        runtime_api=runtime_api(env, mode),
        event_env=event_variables.read(env),
        app_env=_app_env(env, mode, output_dir),
        helper_env={k: value for k, value in env.items() if k not in passwords},
        password=_password(env),
    )


def read_for_shell(env: Mapping[str, str]) -> Settings:
    """Return the settings of a debug shell: those of the job that it is for, without its mode."""
    settings = read({**env, v.EXEC_TYPE.name: job_mode(env) or SHELL})
    return replace(settings, mode=SHELL, runtime_api="")


def read_for_explain(env: Mapping[str, str]) -> Settings:
    """Return the settings of the job that is explained, also with EXEC_TYPE=shell."""
    asked = str(v.EXEC_TYPE.read(env)).lower()
    return read({**env, v.EXEC_TYPE.name: job_mode(env) or BATCH} if asked == SHELL else env)


def read_for_invocation(env: Mapping[str, str], request_id: str) -> Settings:
    """Return the settings of one invocation of a Lambda function; its id is the job's."""
    settings = read(env)
    return replace(
        settings, topology=Topology(request_id, 1), limits=replace(settings.limits, hold=0.0)
    )


def read_for_doctor(env: Mapping[str, str]) -> Settings:
    """Return the settings of the job that is examined; a shell may fetch nothing."""
    settings = read(env)
    if settings.mode == SHELL and not settings.staging_asked:
        settings = replace(settings, private=None, deps=None)
    return settings


def job_mode(env: Mapping[str, str]) -> str:
    """Return the mode of the job that a shell is for, empty if it is not known."""
    given = str(v.EXEC_TYPE.read(env)).lower()
    if given in (LAMBDA, BATCH):
        return given
    try:
        return mode_of({**env, v.EXEC_TYPE.name: ""})
    except AgentError:
        return ""


def _check_text(env: Mapping[str, str]) -> None:
    """Raise AgentError (78) for a value of ours that is not UTF-8; a path may be any bytes."""
    for name, value in env.items():
        if name.startswith(_TEXTS) and name not in _ANY_BYTES and not is_text(value):
            cause, hint = "not valid UTF-8", f"set {name} again, in a UTF-8 locale"
            if name in v.HIDDEN:
                raise AgentError(f"use {name}", cause, code=BAD_SETTINGS, hint=hint)
            raise bad(name, value, cause, hint)


def secrets_of(settings: Settings) -> tuple[str, ...]:
    """Return the values that no log may show."""
    values = (settings.password, *(settings.helper_env.get(name, "") for name in v.SECRET))
    return tuple(value for value in values if value)


def _workdir(env: Mapping[str, str], mode: str, output_dir: str) -> str:
    """Return the application's working directory, empty for the one that the agent was given."""
    given = v.WORKDIR.read(env) or ("" if mode == LAMBDA else output_dir)
    return os.path.abspath(given) if given else ""


def _below(root: str, path: str) -> str:
    return os.path.join(root, path.lstrip("/"))


def mode_of(env: Mapping[str, str]) -> str:
    """Return how to run, by EXEC_TYPE or the platform; raise AgentError (64)."""
    given: str = v.EXEC_TYPE.read(env)
    if given:
        if given.lower() in (LAMBDA, BATCH, SHELL):
            return given.lower()
        cause = "valid are lambda, batch, shell"
        raise bad(v.EXEC_TYPE.name, given, cause, "set one of them", USAGE)
    if v.JOB_ID.read(env):
        return BATCH
    # AWS_LAMBDA_FUNCTION_NAME decides nothing: SCAR sets it in Batch jobs too.
    if v.RUNTIME_API.read(env):
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
    served = v.TMP_INPUT_DIR.read(env) or v.INPUT_FILE_PATH.read(env) or mode != LAMBDA
    return "" if served else str(v.RUNTIME_API.read(env))


def _command(env: Mapping[str, str], root: str, output_dir: str, workdir: str) -> tuple[str, ...]:
    """Return the application and its parameters, split as a shell does.

    A relative path is one below the working directory, as a shell that is there takes it.
    """
    app_bin = _application(v.APP_BIN.read(env), root)
    if "/" in app_bin:
        app_bin = os.path.join(workdir or os.getcwd(), app_bin.removeprefix("./"))
    if v.APP_PARAMS.name in env:
        return (app_bin, *v.APP_PARAMS.read(env))
    in_file = env.get(v.APP_IN_FILE.name, _below(root, v.APP_IN_FILE.default))
    older = (in_file, *v.APP_PARAMS1.read(env), output_dir, *v.APP_PARAMS2.read(env))
    return (app_bin, *(argument for argument in older if argument))


def _application(app_bin: str, root: str) -> str:
    """Return where APP_BIN is: below `root` when private.7z is unpacked there."""
    return _below(root, app_bin) if root != "/" and app_bin.startswith("/opt/") else app_bin


def _archive(
    env: Mapping[str, str], bucket: S3Uri, mode: str, variable: v.Variable
) -> S3Uri | None:
    relative = env.get(variable.name, variable.default)
    if relative in v.OFF or mode == LAMBDA:  # Lambda's image has everything in it
        return None
    key = S3Uri.parse(f"{bucket.bucket}/{relative}", variable.name).key
    return bucket / key


def _output(env: Mapping[str, str], mode: str, bucket: S3Uri) -> S3Uri | None:
    given = env.get(v.OUTPUT.name)
    if given is not None:
        return None if given in v.OFF else S3Uri.parse(given, v.OUTPUT.name)
    # TMP_INPUT_DIR is faas-supervisor's: it uploads TMP_OUTPUT_DIR itself.
    return bucket / "output" if mode == BATCH and not v.TMP_INPUT_DIR.read(env) else None


def _password(env: Mapping[str, str]) -> str:
    path = v.PRIVATE_PASSWD_FILE.read(env)
    if not path:
        return str(v.PRIVATE_PASSWD.read(env))
    try:
        # utf-8-sig: with or without a byte order mark.
        with open(path, encoding="utf-8-sig") as file:
            return file.readline().rstrip("\r\n")
    except (OSError, UnicodeError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        hint = f"check the file named by {v.PRIVATE_PASSWD_FILE.name}"
        raise bad(v.PRIVATE_PASSWD_FILE.name, path, cause, hint, NO_PERMISSION) from error


def _app_env(env: Mapping[str, str], mode: str, output_dir: str) -> dict[str, str]:
    """Return the application's environment: the given one, less secrets, plus the contract's."""
    app = {name: value for name, value in env.items() if name not in v.HIDDEN}
    app[v.TMP_OUTPUT_DIR.name] = output_dir
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
