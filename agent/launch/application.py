"""Run the application: start it, time it, stop it, and report how it exited."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import stat
from collections.abc import Callable, Collection, Mapping, Sequence

from agent.core.errors import NOT_EXECUTABLE, NOT_FOUND, TIME_LIMIT, AgentError, os_reason
from agent.core.model import AGENT, APPLICATION, Outcome
from agent.engine.log import Log
from agent.engine.loop import Loop, Timer
from agent.engine.process import Child, has_terminal, pin_no_directory
from agent.launch import cgroup
from agent.launch.output import Output, time_lines
from agent.launch.stopping import Stopping

# A process that survives SIGKILL for so long is stuck in the kernel.
_KILL_SECONDS = 2.0
# What the application has left behind may still write its last output.
_LAST_OUTPUT_SECONDS = 0.5
_CONSOLE_SECONDS = 2.0
# How many files are looked at for a program that isn't where it was said to be.
_LOOKS = 5000
MEMORY_HINT = "give the container more memory, or start fewer processes (ARCHITRAVE_SLOTS)"


def locate(program: str, path: str, opt: str = "/opt") -> str:
    """Return the program's path, or that of the file named; raise AgentError 126 or 127.

    `opt` is where private.7z is unpacked: a program of that name there is named.
    """
    found = program if "/" in program else shutil.which(program, path=path)
    what = f"run {program}"
    if not found or not os.path.lexists(found):
        cause = "no such file" if found else "not on PATH"
        hint = "check APP_BIN, and that private.7z has it"
        if there := _find(opt, os.path.basename(program)):
            hint = f"set APP_BIN={there}"
        raise AgentError(what, cause, code=NOT_FOUND, hint=hint)
    if os.path.isdir(found):
        hint = "name the program in it"
        raise AgentError(what, "is a directory", code=NOT_EXECUTABLE, hint=hint)
    return found


def _find(opt: str, name: str) -> str:
    """Return the nearest file of that name below `opt`, empty for none; the search is bounded."""
    looks, folders = _LOOKS, [opt]
    while folders and looks > 0:
        folder = folders.pop(0)
        with contextlib.suppress(OSError):
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            looks -= len(entries)
            for entry in entries:
                if entry.name == name and entry.is_file():
                    return entry.path
            own = os.path.join(opt, "architrave")
            folders += [
                one.path for one in entries if one.is_dir(follow_symlinks=False) and one.path != own
            ]
    return ""


def resolve(program: str, path: str, opt: str = "/opt") -> str:
    """Return the program's path, made executable if it was not; raise AgentError 126 or 127."""
    found = locate(program, path, opt)
    try:
        mode = os.stat(found).st_mode
        if not os.access(found, os.X_OK):
            os.chmod(found, stat.S_IMODE(mode) | 0o111)
    except OSError as error:
        hint = f"chmod +x {found}"
        cause = f"not executable ({os_reason(error)})"
        raise AgentError(f"run {program}", cause, code=NOT_EXECUTABLE, hint=hint) from error
    return found


def application_stopped(cause: str, *, code: int, hint: str = "") -> AgentError:
    """Return the reason for which an application is stopped."""
    return AgentError(
        "application stopped", cause, code=code, hint=hint, event="application_stopped"
    )


def _mount_of(path: str) -> str:
    """Return where the file system that holds a path is mounted."""
    while not os.path.ismount(path):
        path = os.path.dirname(path)
    return path


# The process stays until the kernel lets it go.
UNKILLABLE = "application survived SIGKILL (uninterruptible sleep, state D)"


class Application:
    """The one application of this node: all the processes that it has started.

    `own` are the agent's own children. `on_stop` gets the signal and the grace period (seconds)
    before the application is stopped here; `elsewhere`: whether other nodes' ranks still run;
    `on_release` is called when none does.
    """

    def __init__(
        self,
        loop: Loop,
        log: Log,
        output: Output,
        *,
        grace: float,
        own: Collection[int],
        on_stop: Callable[[AgentError, int, float], None] = lambda reason, number, grace: None,
        elsewhere: Callable[[], bool] = lambda: False,
        on_release: Callable[[], None] = lambda: None,
    ) -> None:
        self.child: Child | None = None
        self.stopped_for: AgentError | None = None
        self.real_seconds = 0.0
        self.finished = False
        self._loop = loop
        self._log = log
        self._output = output
        self._grace = grace
        self._on_stop = on_stop
        self._stopping = Stopping(loop, log, own, elsewhere=elsewhere, on_release=on_release)
        self._timers: list[Timer] = []
        self._oom_before = 0
        self._start = 0.0
        self._exited_at = 0.0

    def start(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        time_limit: float,
        limit_hint: str,
        *,
        stdin: str,
        rlimits: Sequence[tuple[int, int, int]] = (),
    ) -> None:
        """Start it; raise AgentError 126, 127 or 71 when it can't be started.

        `time_limit` is in seconds, 0 for none; `limit_hint` is how to get more.
        """
        self._oom_before = cgroup.oom_kills()
        self._start = self._loop.clock()
        try:
            self.child = self._loop.children.spawn(
                argv,
                env,
                cwd=cwd,
                stdin=stdin,
                stdout=self._output.write_end,
                stderr=self._output.write_end,
                foreground=has_terminal(),
                serve_events=True,
                rlimits=rlimits,
            )
        finally:
            self._output.started()
        pin_no_directory()
        if time_limit:
            self._timers.append(
                self._loop.call_at(
                    self._start + time_limit, lambda: self._out_of_time(time_limit, limit_hint)
                )
            )

    @property
    def exited(self) -> bool:
        """Return whether it has exited or survived SIGKILL; after a stop, all its processes."""
        if self.child is None:
            return True
        if (
            self._stopping.killed_at
            and self._loop.clock() > self._stopping.killed_at + _KILL_SECONDS
        ):
            return True
        return not self.child.running and (self.stopped_for is None or self._stopping.over)

    def child_exited(self, child: Child) -> None:
        """Note the time if it is the application; called for every child."""
        if child is self.child:
            self._exited_at = self._loop.clock()

    def forward(self, number: int) -> None:
        """Pass a signal on to its process group; under a launcher to the ranks on this node."""
        if self.child is not None and self.child.running and not self._stopping.forward(number):
            self.child.kill_group(number)

    def stop(
        self, reason: AgentError, number: int = signal.SIGTERM, max_grace: float = math.inf
    ) -> None:
        """Send it the signal, and SIGKILL after the grace period; called again, kill it now.

        `max_grace` bounds the grace period, in seconds. Each of its processes gets the signal once.
        """
        if self.child is None or self.exited:
            return
        if self.stopped_for is not None:
            self._stopping.kill()
            return
        self.stopped_for = reason
        grace = min(self._grace, max_grace)
        self._log.info(
            "application_stopping", signal=number, grace_seconds=grace, cause=reason.cause
        )
        self._on_stop(reason, number, grace)
        self._stopping.begin(number, grace)

    def _out_of_time(self, seconds: float, hint: str) -> None:
        if self.stopped_for is not None:
            return  # it has its grace period: a second stop would kill it at once
        cause = f"it exceeded its time limit of {seconds:.4g} s"
        self.stop(application_stopped(cause, code=TIME_LIMIT, hint=hint))

    def finish(self, wait: Callable[[Callable[[], object], float], bool]) -> None:
        """Kill what it left behind, take its last output, write the time lines."""
        child = self.child
        self.finished = True
        self.real_seconds = (self._exited_at or self._loop.clock()) - self._start
        for timer in self._timers:
            timer.cancel()
        self._stopping.cancel()
        if child is not None and child.kill_group(0):
            child.kill_group(signal.SIGTERM)
        if not self._output.at_eof:
            wait(lambda: self._output.at_eof, self._loop.clock() + _LAST_OUTPUT_SECONDS)
        left = self._loop.children.kill_orphans()
        if left:
            hint = None
            if child is not None and not child.running and not child.code:
                hint = "results that were still being written are lost: keep the program in the"
                hint += " foreground (wait for what it starts)"
            self._log.warning("stragglers_ended", processes=left, hint=hint)
            wait(lambda: self._output.at_eof, self._loop.clock() + _LAST_OUTPUT_SECONDS)
        user, system = (child.user_seconds, child.system_seconds) if child else (0.0, 0.0)
        self._output.append(time_lines(self.real_seconds, user, system))
        wait(lambda: not self._output.behind, self._loop.clock() + _CONSOLE_SECONDS)
        self._output.close()
        if self._output.missed:
            self._log.warning("console_output_missed", bytes=self._output.missed)
        if self._output.unwritten:
            self._log.error(
                "output_lost",
                path=self._output.path,
                cause=self._output.cause,
                hint=f"give the file system {_mount_of(self._output.path)} more space",
                bytes_lost=self._output.unwritten,
            )

    def outcome(self, *, launcher_aborts: bool) -> Outcome:
        """Return how it exited. `launcher_aborts`: mpirun's own code after a stop means nothing."""
        stop = self.stopped_for
        if self.child is None or self.child.running:
            return Outcome(stop.code if stop else 137, AGENT, cause=UNKILLABLE)
        code, number = self.child.code, self.child.signal
        if stop is not None:
            own = code if code and not number and not launcher_aborts and stop.code > 128 else 0
            if own:
                return Outcome(own, APPLICATION, cause=str(stop), hint=stop.hint)
            return Outcome(stop.code, AGENT, number, cause=str(stop), hint=stop.hint)
        hint = ""
        cause = cgroup.out_of_memory(self._oom_before) if code == 137 else ""
        out_of_memory = bool(cause)
        if out_of_memory:
            hint = MEMORY_HINT
        elif number:
            cause = f"application was killed by signal {number} ({signal.strsignal(number)})"
            hint = f"see the end of {self._output.path}"
        elif code:
            cause = f"application exited with {code}"
            hint = f"see the end of {self._output.path}"
        return Outcome(code, APPLICATION, number, out_of_memory, cause, hint)
