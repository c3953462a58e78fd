"""Watch directories on this node's own file system with inotify.

inotify doesn't see what another machine writes to a shared file system.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inotify_simple import INotify


class Watch:
    """Call `seen(directory, name)` for each file that is moved in or touched.

    Existing files are reported by `scan`: watch first, then scan, so that none is missed.
    """

    def __init__(self, directories: list[str], seen: Callable[[str, str], None]) -> None:
        import ctypes

        import inotify_simple
        from inotify_simple import INotify, flags

        # ctypes.util finds the C library by running ldconfig, and gcc where there is one.
        inotify_simple._libc = ctypes.CDLL(None, use_errno=True)
        self._seen = seen
        self._overflow = flags.Q_OVERFLOW
        self._inotify: INotify = INotify()
        mask = flags.MOVED_TO | flags.CREATE | flags.ATTRIB | flags.CLOSE_WRITE | flags.ONLYDIR
        self._directories = {
            self._inotify.add_watch(directory, mask): directory for directory in directories
        }

    def fileno(self) -> int:
        """Return the descriptor, to wait on."""
        return int(self._inotify.fileno())

    def read(self) -> None:
        """Report what has happened; after an overflow of the kernel's queue, everything."""
        names = {}
        for event in self._inotify.read(timeout=0):
            if event.mask & self._overflow:
                self.scan()
            elif event.name and event.wd in self._directories:
                names[(self._directories[event.wd], event.name)] = True
        for directory, name in names:
            self._report(directory, name)

    def scan(self) -> None:
        """Report every file that is there."""
        for directory in self._directories.values():
            for name in sorted(os.listdir(directory)):
                self._report(directory, name)

    def close(self) -> None:
        """Stop watching."""
        self._inotify.close()

    def _report(self, directory: str, name: str) -> None:
        if not name.startswith("."):
            self._seen(directory, name)


def read_regular(path: str, limit: int) -> bytes:
    """Read a small regular file; raise OSError for a link, a pipe or anything else."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(22, "not a regular file", path)
        return file.read(limit + 1)
