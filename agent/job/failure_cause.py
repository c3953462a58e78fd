"""Find out why the application failed, if its exit code does not name the cause."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace

from agent.core.errors import NOT_EXECUTABLE, NOT_FOUND, AgentError
from agent.core.model import Outcome
from agent.job.verdict import outcome_of
from agent.launch import mpirun

_SEGMENTATION_FAULT = 128 + signal.SIGSEGV


def explain_failure(
    outcome: Outcome,
    program: str,
    env: dict[str, str],
    last_output: str,
    *,
    by_mpirun: bool,
    nodes: int,
    stack: int,
    ask: Callable[[str, list[str], dict[str, str]], str],
) -> Outcome:
    """Return an application's outcome with its cause, where that can be found.

    `last_output` is the end of the application's output, `stack` its stack limit in bytes (-1 for
    none), `ask` runs a small program.
    """
    if error := _not_executed(outcome.code, program, env, last_output, by_mpirun=by_mpirun):
        return outcome_of(error)
    if nodes > 1 and mpirun.daemons_failed(last_output):
        cause = "mpirun could not start its daemon on every node, or has lost one"
        hint = "let the nodes reach each other on all ports (security group); see time.log"
        return replace(outcome, cause=cause, hint=hint)
    if outcome.code == _SEGMENTATION_FAULT and stack >= 0:
        cause = outcome.cause if outcome.signal else "application exited with 139, as after SIGSEGV"
        cause += f", with a stack limit of {stack // 1024} KiB"
        hint = "if it is out of stack, set ARCHITRAVE_ULIMITS=stack=unlimited; see time.log"
        return replace(outcome, cause=cause, hint=hint)
    if outcome.code in (1, NOT_FOUND) and "not found (required by" in last_output:
        from agent.launch import elf  # for a failure only

        if new := elf.too_new(last_output):
            cause = f"{program} requires newer libraries: {', '.join(new)}"
            return replace(outcome, cause=cause, hint=elf.advise_newer(new))
    ldd = shutil.which("ldd", path=env.get("PATH", os.defpath))
    if outcome.code != NOT_FOUND or ldd is None:
        return outcome
    from agent.launch import elf  # for a failure only

    try:
        missing = elf.missing(ask("list the missing libraries", [ldd, program], env))
    except AgentError:  # a signal, for example: the application's code stays what it is
        return outcome
    if not missing:
        return outcome
    cause = f"{program} needs libraries that are not installed: {', '.join(missing)}"
    return replace(outcome, cause=cause, hint=elf.MISSING_HINT)


def _not_executed(
    code: int, program: str, env: dict[str, str], last_output: str, *, by_mpirun: bool
) -> AgentError | None:
    """Return why the program could not be executed on some node, None if it could.

    What mpirun reports decides, since a machine may have more ways to execute files than the usual
    ones (binfmt_misc).
    """
    reported, node = mpirun.not_executed(last_output) if by_mpirun else (False, "")
    # env exits with 127 when it does not find a script's interpreter.
    if not reported and code not in (NOT_FOUND, *(mpirun.NEVER_EXECUTED if by_mpirun else ())):
        return None
    from agent.launch import elf  # for a failure only

    try:
        elf.check(program, program, env.get("PATH", os.defpath))
    except AgentError as error:
        return error
    except OSError:
        pass
    if not reported:
        return None
    cause = "mpirun could not execute it" + (f" on node {node}" if node else "")
    hint = f"see the end of time.log; is {program} the same file on every node?"
    return AgentError(f"run {program}", cause, code=NOT_EXECUTABLE, hint=hint)
