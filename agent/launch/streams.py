"""Look at other processes' pipes and terminals: where they read from, and which can't write."""

from __future__ import annotations

import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent.launch.process_tree import Process

_PIECE = 1 << 20


def readers(processes: Sequence[Process]) -> list[Process]:
    """Return those that read by a pipe what another one of them writes: `solver | tee log`."""
    written = {
        pipe: process.pid
        for process in processes
        for number in (1, 2)
        if (pipe := _target(process, number)).startswith("pipe:")
    }
    return [one for one in processes if written.get(_target(one, 0), one.pid) != one.pid]


def make_room(processes: Iterable[Process]) -> int:
    """Drop what waits in the full output of processes, so that they go on; return how often.

    What reads it is held. A rank of Open MPI 4 writes into a terminal, which holds 4 KiB, and of
    others into a pipe, which holds 64 KiB.
    """
    dropped = 0
    for target in {(_target(one, number)): one for one in processes for number in (1, 2)}.items():
        name, process = target
        if name.startswith("/dev/pts/"):
            dropped += _flush_terminal(name)
        elif name.startswith("pipe:"):
            dropped += any(_empty_pipe(process, number, name) for number in (1, 2))
    return dropped


def _flush_terminal(name: str) -> bool:
    import termios  # for a stop of ranks only

    try:
        fd = os.open(name, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if select.select([], [fd], [], 0)[1]:
            return False
        termios.tcflush(fd, termios.TCOFLUSH)
        return True
    except (OSError, termios.error):
        return False
    finally:
        os.close(fd)


def _empty_pipe(process: Process, number: int, name: str) -> bool:
    path = f"/proc/{process.pid}/fd/{number}"
    if _target(process, number) != name:
        return False
    try:
        writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if select.select([], [writer], [], 0)[1]:
                return False
            reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                return bool(os.read(reader, _PIECE))
            finally:
                os.close(reader)
        finally:
            os.close(writer)
    except OSError:
        return False


def _target(process: Process, number: int) -> str:
    """Return what a descriptor of a process is, "" where that can't be seen."""
    try:
        return os.readlink(f"/proc/{process.pid}/fd/{number}")
    except OSError:
        return ""
