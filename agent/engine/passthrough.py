"""Run a foreign command unchanged: signals forwarded, orphans reaped, exit code passed on."""

from __future__ import annotations

import os

from agent.core.environ import environment, exit_code_file, runtime_dir
from agent.engine.loop import Loop
from agent.engine.process import Child, Children, has_terminal, pin_no_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping, Sequence
else:
    import _signal as signal  # the public one imports enum, a fifth of a start

# Batch and `docker stop` stop a container by SIGTERM, and SIGKILL 30 s later.
_STOP_SECONDS = 27.0
_TERMINATING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
# Job control's: what stops the agent stops the command too.
_PAUSING = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
# Time after SIGTERM for what the command leaves behind.
_LEFT_SECONDS = 2.0


def run(argv: Sequence[str]) -> int:
    """Run `argv` and return its exit code; raise AgentError 126 or 127 if it can't be started."""
    loop = Loop(Children())
    env = environment()
    inside = _JobInside(env)
    child = start(loop, argv, env)
    received: list[tuple[float, int]] = []

    pass_on = loop.on_signal

    def forward(number: int) -> None:
        if number in _TERMINATING:
            received.append((loop.clock(), number))
        pass_on(number)

    loop.on_signal = forward
    loop.wait(lambda: not child.running)
    if received and inside.runs():
        # It got the signal too, and saves what there is. If this process is PID 1, its exit
        # would kill that job.
        at, number = received[-1]
        _signal_other_groups(loop.children.orphans(), child.pid, number)
        loop.wait(lambda: not inside.runs(), at + _STOP_SECONDS)
    _stop_leftovers(loop, child, received)
    if has_terminal():
        give_terminal(os.getpgrp())
    return child.code or inside.code()


def _stop_leftovers(loop: Loop, child: Child, received: Sequence[object]) -> None:
    """Send SIGTERM to what the command leaves behind, and wait two seconds or for a signal.

    The exit of PID 1 kills all of it. Elsewhere it is only the command's group: what has left
    that, as a daemon does, is meant to stay.
    """
    children = loop.children

    def left() -> bool:
        return bool(children.orphans()) if children.is_init else child.kill_group(0)

    if not left():
        return
    if not received:  # else the signal was forwarded
        child.kill_group(signal.SIGTERM)
        if children.is_init:
            _signal_other_groups(children.orphans(), child.pid, signal.SIGTERM)
    before = len(received)
    loop.wait(lambda: len(received) > before or not left(), loop.clock() + _LEFT_SECONDS)


def _signal_other_groups(orphans: Sequence[int], group: int, number: int) -> None:
    """Send a signal to orphans that have not received it: a second one would mean "now"."""
    for pid in orphans:
        try:
            if os.getpgid(pid) != group:
                os.kill(pid, number)
        except OSError:
            continue  # it has exited


class _JobInside:
    """A job that the command may start: faas-supervisor does, and never checks how it exited.

    A command that exits with 0 although its job failed counts as failed, with the job's code.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self._code_file = exit_code_file(env)
        self._lock = runtime_dir(env.get("ARCHITRAVE_ROOT") or "/") + ".lock"
        self._before = _written(self._code_file), _written(self._lock)

    def runs(self) -> bool:
        """Return whether such a job is still running."""
        if _written(self._lock) in (0, self._before[1]):
            return False
        import fcntl  # only after a signal

        try:
            with open(self._lock, "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def code(self) -> int:
        """Return the code of a job that ran since, 0 if there was none."""
        code_written, locked = _written(self._code_file), _written(self._lock)
        code, how = 0, "exited with"
        if locked not in (0, self._before[1]):
            code, how = 128 + signal.SIGKILL, "was killed or is still running, which counts as"
        elif code_written != self._before[0]:
            code = _number_in(self._code_file)
        if code:
            line = f"the job {how} {code} and its command exited with 0: exiting with {code}\n"
            _write_stderr(line)
        return code


def _write_stderr(line: str) -> None:
    """Write a line to standard error, unless that would block."""
    from agent.engine.console import Outlet  # for a failure only

    try:
        Outlet(2).send(line.encode())
    except OSError:
        pass


def _written(path: str) -> int:
    """Return when a file was written, in ns; 0 if there is none."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _number_in(path: str) -> int:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read(16)) & 0xFF
    except (OSError, ValueError):
        return 0


def start(loop: Loop, argv: Sequence[str], env: dict[str, str]) -> Child:
    """Start `argv`, in the foreground where there is a terminal, and forward every signal to it."""
    terminal = has_terminal()
    child = loop.children.spawn(argv, env, foreground=terminal)
    pin_no_directory()
    paused = False

    def forward(number: int) -> None:
        nonlocal paused
        if number == signal.SIGCONT and paused:
            paused = False
            if terminal:
                give_terminal(child.pid)
        child.kill_group(number)
        if number in _PAUSING and not loop.children.is_init:
            paused = True
            os.kill(os.getpid(), signal.SIGSTOP)

    def stopped(one: Child) -> None:
        if paused:
            return  # this process has been stopped with it
        # The shell that started us waits for us to stop as the command did (job control).
        if one is child and one.running and terminal and not loop.children.is_init:
            give_terminal(os.getpgrp())
            os.kill(os.getpid(), signal.SIGSTOP)
            give_terminal(child.pid)
            child.kill_group(signal.SIGCONT)

    loop.on_child = stopped
    loop.on_signal = forward
    return child


def give_terminal(group: int) -> None:
    """Make a process group the terminal's foreground; from behind that needs SIGTTOU held."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        os.tcsetpgrp(0, group)
    except OSError:
        pass
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTTOU})
