"""Write to the container's stdout and stderr without ever blocking."""

from __future__ import annotations

import errno
import json
import os
import select
import stat
from collections import deque

from agent.engine.loop import Loop

# After POLLOUT a pipe takes this much without blocking (POSIX PIPE_BUF).
_SURE_TO_FIT = 4096
_QUEUE_LIMIT = 1 << 20


class Outlet:
    """A descriptor that may be slow, blocked forever or closed; `gone`: it is closed."""

    def __init__(self, fd: int) -> None:
        self.gone = False
        self._fd, self.nonblocking = _open_again(fd)
        self.is_file = stat.S_ISREG(os.fstat(fd).st_mode)

    def fileno(self) -> int:
        """Return the descriptor, to wait on."""
        return self._fd

    def send(self, data: bytes | memoryview) -> int:
        """Write what fits now; return how many bytes that was, 0 if none."""
        if self.gone:
            return 0
        try:
            if not (self.nonblocking or self.is_file):
                if not select.select((), (self._fd,), (), 0)[1]:
                    return 0
                data = data[:_SURE_TO_FIT]
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self.gone = error.errno not in (errno.ENOSPC, errno.EDQUOT)
            return 0

    def close(self) -> None:
        """Send nothing more; the given descriptor stays open."""
        self.gone = True
        os.close(self._fd)


class LineQueue:
    """A bounded queue of lines for an outlet; it reports how many it had to drop."""

    def __init__(self, outlet: Outlet, loop: Loop, *, console: bool = False) -> None:
        self._dropped = 0
        self._console = console
        self._outlet = outlet
        self._loop = loop
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._watching = False

    def put(self, line: bytes) -> None:
        """Send a line now, or keep it until the outlet takes it."""
        if self._size + len(line) > _QUEUE_LIMIT or self._outlet.gone:
            self._dropped += 1
            return
        if self._dropped:
            line = self._note() + line
            self._dropped = 0
        self._lines.append(line)
        self._size += len(line)
        self._drain()

    def _note(self) -> bytes:
        """Return the line that names how many were dropped, in the log's own format."""
        from agent.core.events import message

        note = {"event": "log_lines_dropped", "level": "warning", "count": self._dropped}
        text = message("log_lines_dropped", note)[0]
        if self._console:
            return f"[warning] {text}\n".encode()
        return json.dumps(note | {"message": text}).encode() + b"\n"

    @property
    def empty(self) -> bool:
        """Return whether no line waits to be written; if the reader is gone, none does."""
        return not self._lines or self._outlet.gone

    def _drain(self) -> None:
        while self._lines:
            sent = self._outlet.send(self._lines[0])
            self._size -= sent
            if sent < len(self._lines[0]):
                self._lines[0] = self._lines[0][sent:]
                break
            self._lines.popleft()
        wanted = bool(self._lines) and not (self._outlet.gone or self._outlet.is_file)
        if wanted and not self._watching:
            self._loop.watch(self._outlet.fileno(), self._drain, write=True)
        elif self._watching and not wanted:
            self._loop.unwatch(self._outlet.fileno())
        self._watching = wanted


def _open_again(fd: int) -> tuple[int, bool]:
    """Return a descriptor of our own, and whether it never blocks.

    O_NONBLOCK belongs to the open file and would change it for every process that shares it, so a
    pipe or a terminal is reopened; where that is impossible, small writes after a poll are used.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{fd}", flags), True
        except OSError:
            pass
    return os.dup(fd), False
