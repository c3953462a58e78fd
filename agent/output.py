"""Take the application's output into time.log, byte for byte, and show it as it comes.

The file goes first and the console follows at its own pace: a console that nobody reads neither
stops the application nor costs memory, and what it missed is known to the byte.
"""

from __future__ import annotations

import fcntl
import os

from agent.console import Outlet
from agent.errors import why
from agent.loop import Loop

_PIPE_SIZE = 1 << 20
_BLOCK = 1 << 18


class Output:
    """The pipe that the application writes to, its file, and the console behind it."""

    def __init__(self, loop: Loop, path: str, console: Outlet) -> None:
        self.path = path
        self.unwritten = 0
        self.cause = ""
        self._loop = loop
        self._console = console
        self._size = 0
        self._shown = 0
        self._watching = False
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._pipe, self.write_end = os.pipe()
        try:
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        except OSError:
            pass  # a user may have no more than some pages of pipes; the default serves
        os.set_blocking(self._pipe, False)
        loop.watch(self._pipe, self._take)

    def started(self) -> None:
        """Give up this process's own end, so that the pipe ends with the application's."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    @property
    def ended(self) -> bool:
        """Tell whether nobody holds the pipe's other end any more."""
        return self._pipe < 0

    @property
    def behind(self) -> int:
        """Return how many bytes the console has not taken, 0 when it is gone."""
        return 0 if self._console.gone else self._size - self._shown

    @property
    def missed(self) -> int:
        """Return how many bytes the console has never shown."""
        return self._size - self._shown

    def append(self, data: bytes) -> None:
        """Add bytes of our own: the lines of `time`."""
        self._write(data)
        self._show()

    def close(self) -> None:
        """Stop; what is still in the pipe is taken first."""
        while not self.ended and self._take():
            pass
        self.started()
        for fd in (self._pipe, self._console.fileno() if self._watching else -1):
            if fd >= 0:
                self._loop.unwatch(fd)
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        os.close(self._file)
        self._console.close()

    def _take(self) -> bool:
        """Read once; tell whether there was anything."""
        try:
            data = os.read(self._pipe, _BLOCK)
        except BlockingIOError:
            return False
        if not data:
            self._loop.unwatch(self._pipe)
            os.close(self._pipe)
            self._pipe = -1
            return False
        self._write(data)
        self._show(data)
        return True

    def _write(self, data: bytes) -> None:
        """Write all of it; on a full disk go on without, and count."""
        view = memoryview(data)
        while view:
            try:
                written = os.pwrite(self._file, view, self._size)
            except OSError as error:
                self.cause = why(error)
                self.unwritten += len(view)
                if self.behind == 0:
                    self._console.send(view)  # shown, where it can't be kept
                return
            self._size += written
            view = view[written:]

    def _show(self, latest: bytes = b"") -> None:
        """Send to the console what it lacks, and wait for it when it takes no more."""
        while self._shown < self._size and not self._console.gone:
            lacking = self._size - self._shown
            data = latest if lacking == len(latest) else b""
            data = data or os.pread(self._file, min(_BLOCK, lacking), self._shown)
            sent = self._console.send(data)
            self._shown += sent
            if not sent:
                break
        waits = self.behind > 0 and not self._console.is_file
        if waits and not self._watching:
            self._loop.watch(self._console.fileno(), self._show, write=True)
        elif self._watching and not waits:
            self._loop.unwatch(self._console.fileno())
        self._watching = waits


def time_lines(real: float, user: float, system: float) -> bytes:
    """Return a blank line and `real`, `user`, `sys` as bash's `time` prints them (seconds in)."""

    def line(name: str, seconds: float) -> str:
        minutes, rest = divmod(round(seconds * 1000), 60_000)
        return f"{name}\t{minutes}m{rest // 1000}.{rest % 1000:03d}s\n"

    return ("\n" + line("real", real) + line("user", user) + line("sys", system)).encode()
