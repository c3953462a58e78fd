"""All commands in one parser, from which help, docs, man page and completion are made."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from agent import __version__
from agent.core.errors import NOT_FOUND, AgentError
from agent.tools.commands import doctor, generate, local, pack, report
from agent.tools.commands.options import Commands, Parser, command

_SHELLS = ("bash", "zsh", "tcsh")
_JOB = """\
  docker run --rm -e EXEC_TYPE=lambda -e APP_BIN=/bin/echo \\
      -e APP_PARAMS='a  b' architrave
  docker run --rm -e EXEC_TYPE=batch -e S3_BUCKET=s3://bucket \\
      -e PRIVATE_PASSWD -e APP_BIN=/opt/app architrave run
"""
_SHELL = """\
  docker run --rm -it -e EXEC_TYPE=shell architrave
  docker exec -it CONTAINER architrave shell     # beside its job
  echo 'ls /opt' | docker run --rm -i architrave shell
"""
_EXEC = """\
  docker run --rm architrave exec -- /bin/sh -c 'exit 5'
  docker run --rm architrave /bin/sh -c 'exit 5'
"""
_EXPLAIN = """\
  docker run --rm -e EXEC_TYPE=batch -e APP_BIN=/opt/app architrave explain
"""
_COMPLETION = """\
  eval "$(architrave completion bash)"            # in ~/.bashrc
  architrave completion zsh >~/.zfunc/_architrave
"""


def main(argv: Sequence[str]) -> int:
    """Run a command; return the exit code. Raises AgentError."""
    # The agent's entry point blocks every signal, for its PID 1; here Ctrl-C must work.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    try:
        options, left = parser().parse_known_args(argv)
        if left:
            option = left[0].startswith("-")
            options.parser.error(
                f"unknown argument {left[0]}" if option else f"unexpected argument {left[0]!r}"
            )
        code: int = options.action(options)
        return code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def parser() -> Parser:
    """Return the parser of all commands."""
    whole = Parser(
        prog="architrave",
        description="Run a closed-source program on AWS Lambda, AWS Batch, a laptop.",
        epilog="The job is described by the environment. Without a command, it is run.",
    )
    whole.add_argument("-V", "--version", action="version", version=f"architrave {__version__}")
    commands = whole.add_subparsers(metavar="COMMAND", required=True)
    command(commands, "run", "run the job that the environment describes", _JOB)
    shell = command(commands, "shell", "open a prepared debug shell", _SHELL)
    shell.add_argument("arguments", nargs="*", metavar="ARG", help="arguments for bash")
    exec_ = command(commands, "exec", "run a command unchanged, under the agent", _EXEC)
    exec_.add_argument("words", nargs="+", metavar="CMD", help="the command and its arguments")
    command(commands, "explain", "show what the job would do; touches nothing", _EXPLAIN)
    for tool in (doctor, pack, local, report, generate):
        tool.add(commands)
    _add_completion(commands)
    return whole


def _add_completion(commands: Commands) -> None:
    summary = "print a shell completion script"
    one = command(commands, "completion", summary, _COMPLETION, _completion)
    one.add_argument("shell", choices=_SHELLS, help="your shell")


def _completion(options: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError as error:
        hint = "pip install 'architrave[local]'"
        what, cause = "make the completion", "the package shtab is missing"
        raise AgentError(what, cause, code=NOT_FOUND, hint=hint) from error
    sys.stdout.write(shtab.complete(parser(), options.shell))
    return 0
