"""Write small files that other processes read: never half of one, whatever kills this process."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def replace(path: str, data: bytes, mode: int = 0o666) -> None:
    """Write a file under a temporary name and rename it; raise OSError.

    A reader sees the old content or the new one. The temporary name begins with a dot.
    """
    directory, name = os.path.split(path)
    fresh = os.path.join(directory, f".{name}.{os.getpid()}-{os.urandom(4).hex()}")
    try:
        _write(fresh, data, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        os.rename(fresh, path)
    except OSError:
        _ignore(lambda: os.unlink(fresh))
        raise


def replace_or_write(path: str, data: bytes) -> None:
    """Write a file as `replace` does, or in place where it can't be renamed over; raise OSError.

    That is what is no regular file, a file that is mounted by itself, and one in a directory where
    this user may make none.
    """
    try:
        if os.path.lexists(path) and not os.path.isfile(path):
            raise OSError
        replace(path, data)
    except OSError:
        _write(path, data, os.O_CREAT | os.O_TRUNC, 0o666)


def _write(path: str, data: bytes, flags: int, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, mode)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def _ignore(action: Callable[[], None]) -> None:
    try:
        action()
    except OSError:
        pass
