"""Find all processes of the application on this node, and hold, signal and continue them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Collection, Iterable, Sequence
else:
    import _signal as signal  # the public one imports enum

# What starts ranks and kills them by its own rules, by the names that the kernel shows (15 bytes).
_STARTERS = ("mpirun", "mpiexec", "orterun", "prterun", "srun")
_DAEMONS = ("orted", "prted", "prte", "hydra_pmi_proxy", "hydra_bstrap_pr")
_SHELLS = ("sh", "bash", "dash", "ash", "busybox", "ksh", "zsh", "csh", "tcsh")
# OpenSSH 9.8 has split sshd into three programs.
_SSHD = ("sshd", "sshd-session", "sshd-auth")
_EXITED, _STILL = "ZXx", "TtZXxD"
_HALT_SECONDS = 0.5


@dataclass(frozen=True)
class Process:
    """One process, as /proc/N/stat has it. `launcher`: it starts ranks and doesn't compute."""

    pid: int
    parent: int
    name: str
    state: str
    launcher: bool = False

    @property
    def exited(self) -> bool:
        """Return whether it has exited and is not reaped yet."""
        return self.state in _EXITED

    @property
    def starter(self) -> bool:
        """Return whether it is a launcher that stops its daemons on all nodes at SIGTERM."""
        return self.name.startswith(_STARTERS)


def application(own: Collection[int]) -> list[Process]:
    """Return the application's processes on this node, parents first.

    They are all descendants of the agent but its own (`own`: helpers, sshd) and what those have
    started. What an SSH session of this job has started counts: it is a launcher's daemon with its
    ranks. The ssh clients of a launcher don't, since a signal to one would cut the launcher off.
    """
    table = _processes()
    children: dict[int, list[Process]] = {}
    for process in table:
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    queue: list[tuple[Process, Process | None]] = [
        (child, None) for child in children.get(os.getpid(), ())
    ]
    for process, parent in queue:  # grows meanwhile
        if process.name in _SSHD:
            member = None
        elif process.pid in own or (process.name == "ssh" and parent and parent.launcher):
            continue
        else:
            # Between sshd and a launcher's daemon a shell may wait.
            shell = process.name in _SHELLS and parent is not None and parent.name in _SSHD
            launcher = shell or process.starter or process.name in _DAEMONS
            member = Process(process.pid, process.parent, process.name, process.state, launcher)
            found.append(member)
        queue += [(child, member or process) for child in children.get(process.pid, ())]
    return found


def computing(processes: Iterable[Process]) -> list[Process]:
    """Return those that compute: neither launchers nor exited."""
    return [process for process in processes if not (process.launcher or process.exited)]


def pause(
    find: Callable[[], Sequence[Process]], seconds: float = _HALT_SECONDS
) -> Sequence[Process]:
    """Stop all of them, also those that they start meanwhile; return them, parents first.

    `seconds` bounds it: a process of another user can't be stopped.
    """
    paused: set[int] = set()
    deadline = time.monotonic() + seconds
    while True:
        found = find()
        fresh = [one for one in found if one.pid not in paused and not one.exited]
        for one in fresh:
            send(one, signal.SIGSTOP)
            paused.add(one.pid)
        still = all(one.state in _STILL for one in found)
        if (not fresh and still) or time.monotonic() > deadline:
            return found


def resume(processes: Sequence[Process]) -> None:
    """Let stopped processes go on, children first.

    A group whose last parent outside has exited gets SIGHUP if a member is still stopped
    (setpgid(2), "orphaned process group").
    """
    for one in reversed(processes):
        send(one, signal.SIGCONT)


def send(process: Process, number: int) -> None:
    """Send a signal to one process, if it is still there and ours."""
    try:
        os.kill(process.pid, number)
    except OSError:
        pass


def _processes() -> list[Process]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                text = file.read()
        except OSError:
            continue  # it has exited meanwhile
        # The name is in parentheses, and may hold some itself.
        start, end = text.find(b"("), text.rfind(b")")
        state, parent = text[end + 2 :].split(maxsplit=2)[:2]
        title = text[start + 1 : end].decode("utf-8", "replace")
        found.append(Process(int(name), int(parent), title, state.decode()))
    return found
