"""Options that several commands have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from agent.core.errors import CANNOT_WRITE, USAGE, AgentError, os_reason

Action = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """A parser that raises the agent's own errors."""

    def error(self, message: str) -> NoReturn:
        """Raise AgentError (64) for arguments that can't be parsed."""
        raise AgentError("read the command line", message, code=USAGE, hint=f"{self.prog} --help")


if TYPE_CHECKING:  # argparse's own class is private, and takes no argument at run time
    Commands: TypeAlias = argparse._SubParsersAction[Parser]
else:
    Commands = argparse._SubParsersAction


def write(path: Path, text: str) -> None:
    """Write the output to the file that --to names; raise AgentError (73)."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        hint = "use --to with another file"
        raise AgentError(f"write {path}", os_reason(error), code=CANNOT_WRITE, hint=hint) from error


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help that fits a screen: each option on one line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


def command(
    commands: Commands, name: str, summary: str, examples: str = "", action: Action | None = None
) -> Parser:
    """Add a command: a line for the list, examples below its help, what it does."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=_Formatter,
    )
    if action is not None:
        parser.set_defaults(action=action, parser=parser)
    return parser


def group(commands: Commands, name: str, summary: str, examples: str = "") -> Commands:
    """Add a command that has subcommands; return what they are added to."""
    parser = command(commands, name, summary, examples)
    return parser.add_subparsers(metavar="COMMAND", required=True)
