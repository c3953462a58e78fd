"""Write small files atomically: other processes never read half of one."""

from __future__ import annotations

import contextlib
import os


def replace(path: str, data: bytes) -> None:
    """Write a file under a temporary name and rename it; raise OSError.

    A reader sees the old content or the new one. The temporary name begins with a dot.
    """
    directory, name = os.path.split(path)
    fresh = os.path.join(directory, f".{name}.{os.getpid()}-{os.urandom(4).hex()}")
    try:
        with open(fresh, "xb") as file:
            file.write(data)
        os.rename(fresh, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise


def replace_or_write(path: str, data: bytes) -> None:
    """Write a file as `replace` does, or in place where it can't be renamed over; raise OSError.

    In place: what is not a regular file, a file that is a mount point, and one in a directory
    where this user may make none.
    """
    try:
        if os.path.lexists(path) and not os.path.isfile(path):
            raise OSError
        replace(path, data)
    except OSError:
        with open(path, "wb") as file:
            file.write(data)
