"""What the command lines of all commands have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

from agent.errors import USAGE, AgentError

Action = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are the agent's own."""

    def error(self, message: str) -> NoReturn:
        """Raise AgentError (64) for words that can't be read."""
        raise AgentError("read the command line", message, code=USAGE, hint=f"{self.prog} --help")


# Only a name for the annotation: the class is argparse's own, and private.
Commands = argparse._SubParsersAction  # type: ignore[type-arg]


def command(
    commands: Commands, name: str, summary: str, examples: str = "", action: Action | None = None
) -> Parser:
    """Add a command: a line for the list, examples below its help, what it does."""
    parser: Parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if action is not None:
        parser.set_defaults(action=action)
    return parser


def group(commands: Commands, name: str, summary: str, examples: str = "") -> Commands:
    """Add a command that has commands of its own; return the place where they are added."""
    parser = command(commands, name, summary, examples)
    return parser.add_subparsers(metavar="COMMAND", required=True)
