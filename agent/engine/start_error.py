"""Name the cause when a program can't be started."""

from __future__ import annotations

import errno
import os

from agent.core.errors import NOT_EXECUTABLE, NOT_FOUND, OS_ERROR, TRY_AGAIN, AgentError, os_reason


def no_room(name: str, error: OSError) -> AgentError:
    """Return the error for a limit that allows no further process (71)."""
    limit = "open files (ulimit -n)" if error.errno == errno.EMFILE else "processes (pids)"
    hint = f"raise this container's limit of {limit}"
    return AgentError(f"start {name}", os_reason(error), code=OS_ERROR, hint=hint)


def of_step(name: str, number: int, step: int) -> AgentError:
    """Return the error of a step of a start: 1 is the change of directory, 2 the execution."""
    if step < 2:
        return AgentError(
            f"start {name}", os.strerror(number), code=OS_ERROR, hint="check ARCHITRAVE_WORKDIR"
        )
    cause, hint = os.strerror(number).lower(), "check the name and PATH"
    if number == errno.ENOENT and os.path.exists(name):
        cause = "the interpreter that it names does not exist"
        hint = f"check it: head -1 {name}; ldd {name}"
    elif number == errno.ENOEXEC:
        hint = f"file {name}: it must be built for {os.uname().machine}, or begin with #!"
    elif number == errno.EACCES:
        hint = f"chmod +x {name}; a directory or a file system without exec cannot be run"
    return AgentError(f"run {name}", cause, code=_start_failure_code(number), hint=hint)


def hangs(name: str, seconds: float) -> AgentError:
    """Return the error of a program that was never executed: its file system is dead (75)."""
    cause = f"not executed within {seconds:g} s"
    return AgentError(f"run {name}", cause, code=TRY_AGAIN, hint="check the program's file system")


def _start_failure_code(number: int) -> int:
    """Return 127 when there is no such program, else 126, as a shell does."""
    return NOT_FOUND if number in (errno.ENOENT, errno.ENOTDIR) else NOT_EXECUTABLE
