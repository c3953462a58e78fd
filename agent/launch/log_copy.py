"""The two files of the application's output: the hidden source, and the visible time.log.

The directory of results is the application's: it may empty it, or write a time.log itself.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time

from agent.core.result_files import HIDDEN

OWN_NAME = "architrave-time.log"
_BLOCK = 1 << 18
# The copy follows at this rate, a second's worth at once, and up to this size or share of the free
# space; at the end it is replaced by the file itself if more than so much is lacking.
_BYTES_PER_SECOND, _LARGEST_COPY, _SHARE_OF_FREE, _LACKING = 8 << 20, 1 << 30, 16, 64 << 20


class Copy:
    """The file without a name, `source`, and the visible one; all errors of the latter
    are left for the end.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._directory = os.path.dirname(path)
        self._hidden = ""
        with contextlib.suppress(OSError):
            if stat.S_ISREG(os.lstat(path).st_mode):
                os.unlink(path)  # an earlier attempt's, which a link may share with others
        with open(path, "wb") as file:
            # Not the time of now: in the same tick of the kernel's clock a change wouldn't show.
            earlier = time.time_ns() - 1_000_000_007
            with contextlib.suppress(OSError):
                os.utime(file.fileno(), ns=(earlier, earlier))
            self._state = _state(os.fstat(file.fileno()))
        self.source = self._open_source()
        free = os.statvfs(self._directory)
        self._max_size = min(_LARGEST_COPY, free.f_bavail * free.f_frsize // _SHARE_OF_FREE)
        self._done = 0
        self._given_up = False
        self._room, self._room_at = _BYTES_PER_SECOND, time.monotonic()

    def _open_source(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC
        with contextlib.suppress(OSError):  # NFS and FUSE have no files without a name
            return os.open(self._directory, flags | os.O_TMPFILE, 0o644)
        self._hidden = self._new_name()
        return os.open(self._hidden, flags | os.O_CREAT | os.O_EXCL, 0o644)

    def _new_name(self) -> str:
        return os.path.join(self._directory, f"{HIDDEN}time.log-{os.urandom(8).hex()}")

    def lags(self, size: int) -> bool:
        """Return whether the copy is to go on by itself."""
        return not self._given_up and self._done < min(size, self._max_size)

    def follow(self, size: int) -> None:
        """Bring the copy up to date, as far as its rate and its limit allow."""
        if self.lags(size):
            now = time.monotonic()
            gained = int((now - self._room_at) * _BYTES_PER_SECOND)
            self._room, self._room_at = min(_BYTES_PER_SECOND, self._room + gained), now
            end = min(size, self._max_size)
            if end - self._done > self._room < _BYTES_PER_SECOND // 4:
                return  # some large pieces a second cost less than many small ones
            before = self._done
            self._extend(min(end, before + self._room))
            self._room -= self._done - before

    def _extend(self, end: int) -> None:
        """Copy up to an offset, unless the application has touched the file."""
        try:
            # Opened each time: the agent may have no more than sixteen descriptors.
            with open(self.path, "r+b", buffering=0, opener=_no_link) as file:
                if _state(os.fstat(file.fileno())) != self._state:
                    self._given_up = True
                    return
                while self._done < end:
                    data = os.pread(self.source, min(_BLOCK, end - self._done), self._done)
                    self._done += os.pwrite(file.fileno(), data, self._done)
                self._state = _state(os.fstat(file.fileno()))
        except OSError:
            self._given_up = True

    def give_back(self) -> bool:
        """Free the copy's space on a full file system; return whether there was any."""
        room = self._done > 0 and not self._given_up
        self._given_up = True
        with contextlib.suppress(OSError):
            if room and self._is_ours():
                os.truncate(self.path, 0)
                self._done = 0
                self._state = _state(os.lstat(self.path))
                return True
        return False

    def settle(self, size: int) -> str:
        """Move the complete file to its final path; return this path.

        That is another one where the application has a file of its own by this name.
        """
        try:
            ours = self._is_ours()
        except FileNotFoundError:
            return self._put(self.path)  # the directory was emptied
        if not ours:
            self._cut()
            return self._put(_free(os.path.join(self._directory, OWN_NAME)))
        if not self._hidden and not self._given_up and size - self._done <= _LACKING:
            self._extend(size)
            if self._done == size:
                return self.path
        return self._put(self.path)

    def _is_ours(self) -> bool:
        """Return whether the name is still that of the file that was made, and untouched."""
        return _state(os.lstat(self.path)) == self._state

    def _cut(self) -> None:
        """Leave the application what it has appended, without the copy in front of it."""
        length, name = self._done, self._new_name()
        with contextlib.suppress(OSError), open(self.path, "rb", opener=_no_link) as theirs:
            status = os.fstat(theirs.fileno())
            if status.st_ino != self._state[1] or not 0 < length < status.st_size:
                return
            for at in range(0, length, _BLOCK):
                part = min(_BLOCK, length - at)
                if theirs.read(part) != os.pread(self.source, part, at):
                    return
            with open(name, "xb") as file:
                while data := theirs.read(_BLOCK):
                    file.write(data)
            os.rename(name, self.path)

    def _put(self, path: str) -> str:
        """Give the file a name, and replace an existing file."""
        os.makedirs(self._directory, exist_ok=True)
        with contextlib.suppress(OSError):
            if self._hidden and os.path.samestat(os.lstat(self._hidden), os.fstat(self.source)):
                os.rename(self._hidden, path)
                return path
        name = self._new_name()
        try:
            # Of a file without a name this is how one is made (open(2), O_TMPFILE).
            # Python follows the link only where a directory is given, which isn't looked at.
            link = f"/proc/self/fd/{self.source}"
            os.link(link, name, src_dir_fd=self.source, follow_symlinks=True)
        except OSError:
            with open(name, "xb") as file:
                at = 0
                while data := os.pread(self.source, _BLOCK, at):
                    at += file.write(data)
        os.rename(name, path)
        return path


def _state(status: os.stat_result) -> tuple[int, int, int, int]:
    """Return what changes when a file is another one, or another process has written to it."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _free(path: str) -> str:
    """Return a path that nothing has, like the given one."""
    stem, number = path.removesuffix(".log"), 1
    while os.path.lexists(path):
        number += 1
        path = f"{stem}-{number}.log"
    return path
