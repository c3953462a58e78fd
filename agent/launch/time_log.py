"""Keep the application's output in a file of the agent's own, and show it as time.log.

The directory of results is the application's: it may empty it, or write a time.log itself. So what
it prints goes to a file without a name there, or with a hidden one, and `time.log` is a copy that
follows: never written to again once the application has touched it.
"""

from __future__ import annotations

import _thread
import os
import select
from collections import deque
from collections.abc import Callable

from agent.core.errors import os_reason
from agent.engine.console import Outlet
from agent.launch.log_copy import Copy

_BLOCK = 1 << 18
# Of what the console is given later, which takes no more at once.
_PIECE = 1 << 16
_STACK = 256 << 10


class TimeLog:
    """The file, and the thread that reads the application's pipe, writes, shows and follows.

    A file system may hold a write for seconds: the loop must not wait for it. `size` is what is in
    the file, `shown` what of it the console has taken, `pending` what is still to be appended.
    """

    def __init__(self, path: str, console: Outlet) -> None:
        self.path = path
        self.size = self.shown = self.pending = self.unwritten = 0
        self.cause = ""
        self.at_eof = self.stopped = False
        self.error: Exception | None = None
        self._console = console
        self._waits = False
        self._more: deque[bytes] = deque()
        self._appending = self._stopping = False
        self._copy = Copy(path)
        self.fd = self._copy.source
        self._pipe = -1
        self._block = bytearray(_BLOCK)
        self._poll = select.poll()
        self._alarm = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def start(self, pipe: int, changed: Callable[[], None]) -> None:
        """Take what comes through a pipe that doesn't block.

        The thread calls `changed` at the pipe's end, and whenever it has done something after that.
        """
        self._pipe = pipe
        for fd in (pipe, self._alarm):
            self._poll.register(fd, select.POLLIN)
        before = _thread.stack_size(_STACK)
        try:
            _thread.start_new_thread(self._run, (changed,))
        finally:
            _thread.stack_size(before)

    @property
    def source(self) -> str:
        """Return a path by which other processes of this user can read the file."""
        path = f"/proc/{os.getpid()}/fd/{self.fd}"
        return path if os.path.exists(path) else self.path

    @property
    def taken(self) -> bool:
        """Return, at the end, whether the application wrote its own time.log."""
        return self.path != self._copy.path

    def tail(self, max_bytes: int) -> bytes:
        """Return the end of the file."""
        return os.pread(self.fd, max_bytes, max(0, self.size - max_bytes))

    def release(self) -> None:
        """Close the files; the thread must have stopped."""
        os.close(self._alarm)
        os.close(self.fd)

    def append(self, data: bytes) -> None:
        """Add bytes after what has come so far."""
        self._appending = True
        self.pending += len(data)
        self._more.append(data)
        os.eventfd_write(self._alarm, 1)

    def stop(self) -> None:
        """Take what is still in the pipe, and put the file in its place; `stopped` at the end."""
        self._stopping = True
        os.eventfd_write(self._alarm, 1)

    # -- the thread

    def _run(self, changed: Callable[[], None]) -> None:
        try:
            while not self._stopping:
                was_at_eof = self.at_eof
                self._turn()
                if self._appending or self.at_eof != was_at_eof:
                    changed()
            while self._take():
                pass
            self._append_more()
        except Exception as error:  # raised in the loop
            self.error = error
            if not self.at_eof:  # nothing is read any more, and nothing may wait for that
                os.close(self._pipe)
                self.at_eof = True
        try:
            self.path = self._copy.settle(self.size)
        except Exception as error:  # raised in the loop
            self.error = self.error or error
        self.stopped = True
        changed()

    def _turn(self) -> None:
        for fd, _ in self._poll.poll(1000 if self._copy.lags(self.size) else None):
            if fd == self._alarm:
                os.eventfd_read(fd)
            elif fd == self._pipe:
                self._take()
            else:
                self._show()
        self._append_more()
        self._copy.follow(self.size)

    def _append_more(self) -> None:
        while self._more:
            data = self._more.popleft()
            self._write(memoryview(data))
            self.pending -= len(data)

    def _take(self) -> bool:
        """Read once; return whether there was anything."""
        if self.at_eof:
            return False
        try:
            length = os.readv(self._pipe, [self._block])
        except BlockingIOError:
            return False
        if not length:
            self._poll.unregister(self._pipe)
            os.close(self._pipe)
            self.at_eof = True
            return False
        self._write(memoryview(self._block)[:length])
        return True

    def _write(self, data: memoryview) -> None:
        """Write all of it and show it; on a full disk go on without, and count."""
        view = data
        while view:
            try:
                written = os.pwrite(self.fd, view, self.size)
            except OSError as error:
                if self._copy.give_back():
                    continue  # with the room that the copy took
                self.cause = os_reason(error)
                self.unwritten += len(view)
                if self.shown == self.size:
                    self._console.send(view)  # shown, where it can't be kept
                return
            self.size += written
            view = view[written:]
        self._show(data)

    def _show(self, latest: bytes | memoryview = b"") -> None:
        """Send to the console what it lacks, and wait for it when it takes no more."""
        console = self._console
        while self.shown < self.size and not console.gone:
            lacking = self.size - self.shown
            data = latest[-lacking:] if lacking <= len(latest) else b""
            data = data or os.pread(self.fd, min(_PIECE, lacking), self.shown)
            sent = console.send(data)
            self.shown += sent
            if not sent:
                break
        waits = self.shown < self.size and not (console.gone or console.is_file)
        if waits and not self._waits:
            self._poll.register(console.fileno(), select.POLLOUT)
        elif self._waits and not waits:
            self._poll.unregister(console.fileno())
        self._waits = waits
