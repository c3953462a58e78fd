"""Start programs with pipes, and write into a pipe without ever waiting for its reader."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence

from agent.engine.loop import Loop
from agent.engine.process import Child

# A pipe holds no more as a rule; and what reads fast must not keep the loop here.
_AT_ONCE, _TURNS = 1 << 16, 16


class Lines:
    """Splits a stream into lines; one longer than `max_bytes` is split too."""

    def __init__(self, max_bytes: float = float("inf")) -> None:
        # The pieces of a line whose end has not come yet: a long one is not copied for each.
        self._partial: list[bytes] = []
        self._size = 0
        self._max_bytes = max_bytes

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that end with these bytes, without their ends."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = self.rest() + lines[0]
        self._partial.append(rest)
        self._size += len(rest)
        return [*lines, self.rest()] if self._size >= self._max_bytes else lines

    def rest(self) -> bytes:
        """Return what has no end yet, and forget it."""
        rest = b"".join(self._partial)
        self._partial, self._size = [], 0
        return rest


class Sender:
    """The write end of a pipe; it is closed when the reader is gone.

    What doesn't fit into the pipe is written later: its size is up to the kernel, which counts a
    user's pipes in all containers of a machine.
    """

    def __init__(self, loop: Loop, fd: int) -> None:
        os.set_blocking(fd, False)
        self._loop = loop
        self._fd = fd
        # Views: the rest of a long message is never copied.
        self._unsent: deque[memoryview] = deque()
        self._waits = False

    def send(self, data: bytes) -> bool:
        """Send data; return whether it may still have a reader."""
        if self._fd < 0:
            return False
        if data:
            self._unsent.append(memoryview(data))
        if not self._waits:
            self._write()
        return self._fd >= 0

    def _write(self) -> None:
        """Write what fits; wait for room for the rest."""
        try:
            for _ in range(_TURNS):
                if not self._unsent:
                    break
                first = self._unsent[0]
                sent = os.write(self._fd, first[:_AT_ONCE])
                if sent < len(first):
                    self._unsent[0] = first[sent:]
                    if sent < _AT_ONCE:
                        break
                else:
                    self._unsent.popleft()
        except BlockingIOError:
            pass
        except OSError:  # no reader any more
            self.close()
            return
        if bool(self._unsent) == self._waits:
            return
        self._waits = not self._waits
        if self._waits:
            self._loop.watch(self._fd, self._write, write=True)
        else:
            self._loop.unwatch(self._fd)

    def close(self) -> None:
        """Send nothing more."""
        if self._fd >= 0:
            self._loop.unwatch(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._unsent.clear()


def spawn(
    loop: Loop, command: Sequence[str], env: Mapping[str, str]
) -> tuple[Child, Sender, int, int]:
    """Start a program; return it, what goes to its stdin, its stdout and its stderr.

    Nothing stays open if it can't be started. Raises what `Children.spawn` does, and OSError.
    """
    fds: list[int] = []
    try:
        for _ in range(3):
            fds += os.pipe()
        stdin, requests, answers, stdout, complaints, stderr = fds
        child = loop.children.spawn(
            command, env, cwd="/", stdin=stdin, stdout=stdout, stderr=stderr
        )
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    for fd in (stdin, stdout, stderr):
        os.close(fd)
    for fd in (answers, complaints):
        os.set_blocking(fd, False)
    return child, Sender(loop, requests), answers, complaints


def read(fd: int) -> bytes | None:
    """Return what has arrived through a non-blocking pipe; None if nothing has."""
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:
        return None
