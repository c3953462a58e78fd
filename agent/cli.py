"""Parse the command line and start what it asks for.

Modules are imported where they are needed: a start pays only for what it uses.
"""

from __future__ import annotations

import os
import sys

from agent import __version__
from agent.core.errors import BUG, NOT_FOUND, USAGE, AgentError

# typing takes longer to import than all of the rest here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.core.settings import Settings
    from agent.job.supervisor import Supervisor

_WAYS = ("run", "shell", "exec", "explain")
_TOOLS = ("doctor", "pack", "local", "report", "generate", "completion")
HELP = f"""architrave {__version__}: run a closed-source program on AWS Lambda, AWS Batch, a laptop

usage: architrave               run the job, in the mode of EXEC_TYPE
       architrave run           the same, explicitly
       architrave shell [ARG…]  a prepared debug shell, or one in a running job
       architrave exec -- CMD … run CMD unchanged, under the agent as PID 1
       architrave CMD …         the same, when CMD is none of these commands
       architrave explain       what would run, and where each value comes from
       architrave doctor        pre-flight check of everything a job needs
       architrave pack …        make private.7z and deps.tar.gz, upload them
       architrave local …       run the job on this machine; shell, logs
       architrave report …      a run's page, or two runs side by side
       architrave generate …    job definition, IAM policy, compose, SCAR
       architrave completion SHELL for bash, zsh, tcsh
       architrave --version, COMMAND --help

examples:
  docker run --rm -e EXEC_TYPE=lambda -e APP_BIN=/bin/uname architrave
  architrave local run --nodes 3 --private private.7z -e APP_BIN=/opt/app
The job is described by the environment: docs/reference/environment.md
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return _dispatch(list(argv))
    except AgentError as error:
        _write_stderr(f"{error}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return _failed(argv, error.code)
    except Exception:
        import traceback

        _write_stderr(
            f"{traceback.format_exc()}internal error\nhint: report it with the lines above\n"
        )
        return _failed(argv, BUG)


def _failed(argv: Sequence[str], code: int) -> int:
    """Write the code of a job that could not start where a surrounding program looks for it."""
    if not argv or argv[0] == "run":
        from agent.core.environ import environment, exit_code_file
        from agent.job.exit_code_file import put_exit_code

        put_exit_code(exit_code_file(environment()), code)
    return code


def _dispatch(argv: list[str]) -> int:
    first = argv[0] if argv else ""
    if first in ("--help", "-h"):
        return _print(HELP)
    if first in ("--version", "-V"):
        return _print(f"architrave {__version__}\n")
    if first in _TOOLS or (first in _WAYS and argv[1:] in (["--help"], ["-h"])):
        from agent.tools.commands.parser import main as tool

        return tool(argv)
    if first in ("shell", "debug") or argv == ["bash"]:
        return _job("shell", argv[1:])
    if first == "exec":
        argv = argv[2:] if argv[1:2] == ["--"] else argv[1:]
        if not argv:
            raise AgentError(
                "exec", "no command is given", code=USAGE, hint="architrave exec -- CMD ARG…"
            )
    elif not argv or first in ("run", "explain"):
        if argv[1:]:
            command, hint = "run", "set APP_PARAMS, or use architrave exec -- CMD ARG…"
            if first == "explain":
                command, hint = "explain", "architrave explain"
            cause = f"{command} takes no arguments"
            raise AgentError(f"{first} {argv[1]!r}", cause, code=USAGE, hint=hint)
        return _job(first, [])
    elif first.startswith("-"):
        raise AgentError(f"use {first}", "no such option", code=USAGE, hint="architrave --help")
    from agent.engine import passthrough

    try:
        return passthrough.run(argv)
    except AgentError as error:
        if error.code == NOT_FOUND and first != "exec" and "/" not in first:
            error.hint += "; architrave --help lists the commands"  # a typing error
        raise


def _job(way: str, arguments: list[str]) -> int:
    """Run the job of this environment, explain it, or open the shell."""
    from agent.engine.loop import OWN_FAULTS, Loop
    from agent.engine.process import Children

    # First of all: from here on signals are handled.
    loop = Loop(Children(), not_ours=OWN_FAULTS)
    from agent.engine.lazy import import_lazily

    import_lazily("inspect", "bz2", "lzma", "subprocess", "tempfile", "uuid")
    from agent.core import settings as settings_
    from agent.core.environ import environment
    from agent.engine.console import LineQueue, Outlet
    from agent.engine.log import Log

    env = environment()
    try:
        settings = _settings(way, env)
    except AgentError as error:
        if way == "explain":
            raise
        if api := settings_.runtime_api(env, settings_.LAMBDA):
            from agent.awslambda import runtime

            runtime.refuse(loop, api, error)
        raise
    outlet = Outlet(2)
    console = settings.log.format == "console" or (settings.log.format == "auto" and os.isatty(2))
    queue = LineQueue(outlet, loop, console=console)
    log = Log(
        queue.put, console=console, level=settings.log.level, secrets=settings_.secrets_of(settings)
    )
    topology = settings.topology
    log.context = {"job": topology.job, "attempt": topology.attempt, "node": topology.index}
    from agent.job.supervisor import ENDING_SIGNALS, Supervisor

    if way != "explain" and settings.runtime_api:
        from agent.awslambda.runtime import Runtime

        code = Runtime(env, settings, loop, log).serve()
    else:
        loop.name_senders(ENDING_SIGNALS)
        code = _run(way, Supervisor(settings, loop, log), env, arguments)
    loop.wait(lambda: queue.empty, loop.clock() + 1.0)
    return code


def _run(way: str, supervisor: Supervisor, env: Mapping[str, str], arguments: list[str]) -> int:
    """Run this node's role (single, main or worker), a shell, or `explain`."""
    settings = supervisor.settings
    if way == "explain":
        from agent.job.explain import explain

        return _print(explain(supervisor, env))
    if settings.mode == "shell":
        from agent.job.shell import Shell

        return Shell(supervisor).open(arguments)
    from agent.job import lifecycle
    from agent.job.parts import Parts

    role: lifecycle.Role
    if settings.topology.count == 1:
        from agent.job.single import Single

        role = Single(Parts(supervisor))
    elif settings.topology.is_main:
        from agent.job.main_node import MainNode

        role = MainNode(Parts(supervisor))
    else:
        from agent.job.worker import Worker

        role = Worker(Parts(supervisor))
    return lifecycle.run(role)


def _settings(way: str, env: Mapping[str, str]) -> Settings:
    """Read the environment for the given command."""
    from agent.core import settings

    if way == "explain":
        return settings.read_for_explain(env)
    shell = way == "shell" or env.get("EXEC_TYPE", "").lower() == settings.SHELL
    return settings.read_for_shell(env) if shell else settings.read(env)


def _print(text: str) -> int:
    sys.stdout.write(text)
    sys.stdout.flush()
    return 0


def _write_stderr(text: str) -> None:
    try:
        os.write(2, text.encode("utf-8", "replace"))
    except OSError:
        pass
