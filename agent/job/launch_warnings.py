"""Warn of what a launch probably doesn't do as its user means it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence

from agent.job.launch_command import LaunchCommand
from agent.job.supervisor import Supervisor

_SHELLS = re.compile(r"(?:ba|da|k|z|c|tc|a|fi)?sh(?:[\d.]*)$|env$|busybox$")
# Redirections, pipes and lists, by themselves or at a word's beginning; variables; file patterns.
_OPERATORS = re.compile(r"(?:\d?(?:>>?|<<?)(?:&\d)?|\|\|?|&&|&|;)")
_REDIRECTION = re.compile(r"\d?(?:>>?|<)[^<>=]+$")
_VARIABLE = re.compile(r"\$(?:\{\w+\}|[A-Za-z_]\w*)")
_PATTERN = re.compile(r"(?:^|[/=._-])\*|\*(?:$|[/.])")


def warn(supervisor: Supervisor, choice: LaunchCommand, env: dict[str, str]) -> None:
    """Log the warnings that apply to this node's launch."""
    command, log = choice.command, supervisor.log
    settings = supervisor.settings
    chosen = settings.launch.launcher == "auto" and choice.launcher(env) == "mpirun"
    if settings.topology.count > 1 and chosen and not choice.uses_mpi(env):
        log.warning(
            "mpi_not_used",
            program=command[0],
            hint="ARCHITRAVE_LAUNCHER=each starts it once on every node,"
            " ARCHITRAVE_LAUNCHER=direct on the main node only",
        )
    if words := shell_syntax(command):
        hint = "use APP_BIN=/bin/sh with APP_PARAMS=-c '…', ARCHITRAVE_STDIN=FILE for < FILE"
        log.warning("shell_syntax_literal", arguments=words, hint=hint)


def warn_of_arguments(supervisor: Supervisor, choice: LaunchCommand) -> None:
    """Name, after a failure, the arguments that are files in /opt and not where it ran.

    Only then: a program, or a script that starts it, may well look in /opt itself.
    """
    settings, opt = supervisor.settings, supervisor.settings.path("/opt")
    directory = settings.launch.workdir or os.getcwd()
    if names := only_in(opt, choice.command[1:], directory):
        hint = f"use {os.path.join(opt, names[0])}, or set ARCHITRAVE_WORKDIR={opt}"
        supervisor.log.warning(
            "arguments_not_found", arguments=names, directory=directory, hint=hint
        )


def shell_syntax(command: Sequence[str]) -> list[str]:
    """Return the arguments that only a shell would interpret; none where a shell is started.

    An argument with blanks is a text of the program's own (a script of awk's).
    """
    if any(_SHELLS.match(os.path.basename(word)) for word in command):
        return []
    looks = (_OPERATORS.fullmatch, _REDIRECTION.match, _VARIABLE.search, _PATTERN.search)
    words = (word for word in command[1:] if not any(map(str.isspace, word)))
    return [word for word in words if any(look(word) for look in looks)]


def only_in(opt: str, arguments: Sequence[str], directory: str) -> list[str]:
    """Return the arguments that are files in `opt` and not in the working directory."""
    found = []
    for argument in arguments:
        name = argument.rpartition("=")[2]
        if not name or name.startswith(("-", "/")) or name in (".", ".."):
            continue
        with contextlib.suppress(OSError, ValueError):
            paths = (os.path.join(top, name) for top in (directory, opt))
            if [os.path.exists(path) for path in paths] == [False, True]:
                found.append(name)
    return found
