"""Run a node's job from its first log line to its last: the same for every role."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from agent import __version__
from agent.core.errors import CANNOT_WRITE, AgentError
from agent.core.model import APPLICATION
from agent.core.settings import BATCH
from agent.core.variables import unknown
from agent.job.exit_code_file import put_exit_code
from agent.job.parts import Parts
from agent.job.states import State
from agent.job.supervisor import Supervisor


class Role(Protocol):
    """The role of a node in the job."""

    @property
    def parts(self) -> Parts:
        """Return the components of the role."""
        ...

    def work(self) -> None:
        """Do everything until the application has exited, and decide the verdict's outcome."""
        ...

    def finish(self) -> None:
        """Upload what there is, write the record; a failure degrades the verdict."""
        ...


def run(role: Role, *, write_exit_code: bool = True) -> int:
    """Run all phases; return the job's exit code."""
    supervisor = role.parts.supervisor
    settings, log, verdict = supervisor.settings, supervisor.log, supervisor.verdict
    log.info("job_started", mode=settings.mode, version=__version__, built=_build_date())
    if settings.mode == BATCH:
        log.open()
    for name, near in unknown(settings.app_env).items():
        hint = f"did you mean {near}?" if near else "architrave explain lists every name"
        log.warning("variable_unknown", name=name, hint=hint)
    if _guarded(supervisor, supervisor.directory.take, verdict.abort):
        _guarded(supervisor, partial(_work, role), verdict.abort)
    if verdict.code and verdict.failure is None:
        # Only now: a lost node may turn out to be the cause, and only one line may name it.
        outcome = verdict.outcome
        fields = {"cause": outcome.cause, "code": outcome.code, "hint": outcome.hint or None}
        own = outcome.source == APPLICATION
        supervisor.report("application_failed" if own else "job_failed", fields)
    supervisor.enter(State.STOPPING)
    _guarded(supervisor, supervisor.workload.finish, verdict.degrade)
    if not supervisor.directory.taken:
        _guarded(supervisor, role.finish, verdict.degrade)
        if write_exit_code:
            _write_exit_code(supervisor)
    supervisor.enter(State.DONE)
    if verdict.code and settings.limits.hold and not supervisor.stop_signal:
        _hold(supervisor)
    log.open()
    supervisor.cleanup()
    role.parts.output_dir.close()
    if supervisor.spans:
        supervisor.spans[-1].end = supervisor.loop.clock()
    _log_exit(role)
    return verdict.code


def _work(role: Role) -> None:
    """Do everything up to the application's exit, if its limits can be set: nothing waits else."""
    if limits := role.parts.supervisor.settings.launch.ulimits:
        from agent.launch import ulimits

        ulimits.check(limits)
    role.work()


def _guarded(
    supervisor: Supervisor, step: Callable[[], None], judge: Callable[[AgentError], None]
) -> bool:
    """Do a step; `judge` gets what it raises. Return whether it raised nothing."""
    try:
        step()
        return True
    except AgentError as error:
        failure = error
    except Exception as error:
        failure = supervisor.bug(error)
    if not supervisor.noted(failure):
        supervisor.fail(failure)
    judge(failure)
    return False


def _hold(supervisor: Supervisor) -> None:
    """Keep the container, and what was unpacked into it, for debugging."""
    from agent.job.attach import attach_command

    settings, loop = supervisor.settings, supervisor.loop
    hint = f"{attach_command(settings.helper_env)}; SIGTERM stops it"
    supervisor.log.warning("container_held", seconds=settings.limits.hold, hint=hint)
    loop.wait(lambda: supervisor.stop_signal, loop.clock() + settings.limits.hold)


def _write_exit_code(supervisor: Supervisor) -> None:
    """Put the exit code where a surrounding program looks for it."""
    path = supervisor.settings.exit_code_file
    if cause := put_exit_code(path, supervisor.verdict.code):
        supervisor.log.warning("exit_code_not_written", path=path, cause=cause, code=CANNOT_WRITE)


def _log_exit(role: Role) -> None:
    """Log the last line; for a failure with its cause and the application's last output."""
    supervisor = role.parts.supervisor
    outcome = supervisor.verdict.outcome
    fields = {"code": outcome.code, "source": outcome.source, "cause": outcome.cause or None}
    if outcome.code:
        last_lines = role.parts.run.last_lines() or None
        fields |= {"hint": outcome.hint or None, "last_lines": last_lines}
    supervisor.log.at("error" if outcome.code else "info", "job_exited", fields)


def _build_date() -> str | None:
    """Return the first line of /build_date, if the image has one."""
    try:
        with open("/build_date", encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return None
