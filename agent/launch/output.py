"""Write the application's output to time.log, byte for byte, and to the console.

The file goes first and the console follows at its own pace: a console without a reader neither
stops the application nor costs memory, and the number of bytes that it missed is known.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from agent.engine.console import Outlet
from agent.engine.loop import Loop
from agent.launch.time_log import TimeLog

_PIPE_SIZE = 1 << 20
# For a file system that holds a write; all that a job does after a signal has 24 s.
_STUCK_SECONDS = 12.0
_TAIL = 1 << 14


class Output:
    """The pipe that the application writes to, its file, and the console behind it."""

    def __init__(self, loop: Loop, path: str, console: Outlet) -> None:
        self._loop = loop
        self._console = console
        self._stuck = self._closed = self._released = False
        self._tail = b""
        self._log = TimeLog(path, console)
        pipe, self.write_end = os.pipe()
        # A user may have no more than some pages of pipes; the default serves.
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        os.set_blocking(pipe, False)
        self._log.start(pipe, lambda: loop.call_soon(self._on_output))

    def started(self) -> None:
        """Close this process's own write end, so that the pipe ends with the application's."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    @property
    def path(self) -> str:
        """Return where the file is: at the end possibly beside the application's own time.log."""
        return self._log.path

    @property
    def taken(self) -> bool:
        """Return, at the end, whether the application wrote its own time.log."""
        return self._log.taken

    @property
    def source(self) -> str:
        """Return a path by which other processes can read the file, also without a name."""
        return self._log.source

    @property
    def cause(self) -> str:
        """Return why some bytes could not be written."""
        return "the file system does not answer" if self._stuck else self._log.cause

    @property
    def unwritten(self) -> int:
        """Return how many bytes could not be written, as far as that is known."""
        return max(self._log.unwritten, int(self._stuck))

    @property
    def at_eof(self) -> bool:
        """Return whether no process has the pipe's other end open."""
        return self._log.at_eof

    @property
    def behind(self) -> int:
        """Return how many bytes the console has not taken, 0 when it is gone."""
        return 0 if self._console.gone else self.missed + self._log.pending

    @property
    def missed(self) -> int:
        """Return how many bytes the console has never shown."""
        return self._log.size - self._log.shown

    def tail(self) -> bytes:
        """Return the end of the file, also after `release`."""
        return self._tail if self._released else self._log.tail(_TAIL)

    def release(self) -> None:
        """Close the file, when everything that reads it is done."""
        if self._closed and not (self._released or self._stuck):
            self._tail = self._log.tail(_TAIL)
            self._released = True
            self._log.release()

    def append(self, data: bytes) -> None:
        """Add bytes of our own: the lines of `time`."""
        self._log.append(data)

    def close(self) -> None:
        """Stop; what is still in the pipe is taken first."""
        self.started()
        self._log.stop()
        self._loop.wait(lambda: self._log.stopped, self._loop.clock() + _STUCK_SECONDS)
        self._stuck = not self._log.stopped
        self._closed = True
        if not self._stuck:
            self._console.close()
        self._on_output()

    def _on_output(self) -> None:
        """Handle a change; raise the thread's error, once."""
        error, self._log.error = self._log.error, None
        if error is not None:
            raise error


def time_lines(real: float, user: float, system: float) -> bytes:
    """Return a blank line and `real`, `user`, `sys` as bash's `time` prints them (seconds in)."""

    def line(name: str, seconds: float) -> str:
        minutes, rest = divmod(round(seconds * 1000), 60_000)
        return f"{name}\t{minutes}m{rest // 1000}.{rest % 1000:03d}s\n"

    return ("\n" + line("real", real) + line("user", user) + line("sys", system)).encode()
