"""Keep a job's directory on this node (keys, downloads), and remove it and what was unpacked."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Iterable

from agent.errors import NO_PERMISSION, TRY_AGAIN, AgentError, why
from agent.settings import JOURNAL


class RuntimeDirectory:
    """The directory (0700) at `path`; `taken` says that another agent's job has it."""

    def __init__(self, path: str) -> None:
        self.taken = False
        self.path = path
        self._lock = -1

    def take(self) -> None:
        """Make it, empty; raise AgentError 75 when it is taken, 77 when it can't be made."""
        path = self.path
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                status = os.lstat(path)
                if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                    raise PermissionError(1, "it belongs to somebody else") from None
                os.chmod(path, 0o700)
            lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.utime(lock)  # so that an outer agent sees that it isn't an older job's
            self._lock = lock
        except BlockingIOError as error:
            self.taken = True
            raise AgentError(
                "start the job",
                "another agent runs one in this container",
                code=TRY_AGAIN,
                hint="a job's application must not start /opt/run.sh again",
            ) from error
        except OSError as error:
            raise AgentError(
                f"make {path}",
                why(error),
                code=NO_PERMISSION,
                hint="make /tmp writable: docker run --tmpfs /tmp",
            ) from error
        for name in os.listdir(path):
            remove(os.path.join(path, name))

    def remove(self, more: Iterable[str]) -> None:
        """Remove it, what was unpacked by its journal, and `more`, unless it is another agent's."""
        if self._lock < 0:
            return
        with contextlib.suppress(OSError):
            journal = os.path.join(self.path, JOURNAL)
            with open(journal, encoding="utf-8", errors="surrogateescape") as list_:
                for path in list_.read().split("\0"):
                    remove(path)
        for path in (*more, self.path, f"{self.path}.lock"):
            remove(path)
        os.close(self._lock)
        self._lock = -1


def remove(path: str) -> None:
    """Remove a file or a whole directory; what can't be removed stays."""
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            _open(path)
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)
    except OSError:
        pass


def _open(directory: str) -> None:
    """Make a directory writable all through: only root can empty one that isn't."""
    _permit(directory)
    for folder, folders, _ in os.walk(directory):
        for name in folders:
            _permit(os.path.join(folder, name))


def _permit(directory: str) -> None:
    if not os.path.islink(directory):
        with contextlib.suppress(OSError):  # another user's
            os.chmod(directory, 0o700)
