"""Keep a job's directory on this node (keys, downloads), and remove it and what was unpacked."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Iterable

from agent.core.errors import (
    BAD_SETTINGS,
    CANNOT_WRITE,
    NO_PERMISSION,
    TRY_AGAIN,
    AgentError,
    os_reason,
)
from agent.staging.journal import journal


class RuntimeDirectory:
    """The directory (0700) at `path`; `taken`: another agent's job uses it."""

    def __init__(self, path: str) -> None:
        self.taken = False
        self.path = path
        self._lock = -1
        self._lent: list[str] | None = None

    def take(self, *, for_shell: bool = False) -> None:
        """Make it, empty; raise AgentError 75 when it is taken, 77 when it can't be made.

        A job may take the directory that a shell has lent; another shell may not.
        """
        path = self.path
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                status = os.lstat(path)
                if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                    raise PermissionError(1, "owned by another user") from None
                os.chmod(path, 0o700)
            lock = self._acquire()
            if for_shell and _is_process(os.pread(lock, 20, 0)):
                os.close(lock)
                raise BlockingIOError
            os.ftruncate(lock, 0)
            os.utime(lock)  # so that an outer agent sees that it isn't an older job's
            self._lock = lock
        except BlockingIOError as error:
            self.taken = True
            raise AgentError(
                "start the job",
                "another agent runs a job in this container",
                code=TRY_AGAIN,
                hint="do not start /opt/run.sh or architrave run from the application",
            ) from error
        except OSError as error:
            raise AgentError(
                f"make {path}",
                os_reason(error),
                code=NO_PERMISSION,
                hint="make /tmp writable: docker run --tmpfs /tmp",
            ) from error
        for name in os.listdir(path):
            remove(os.path.join(path, name))

    def lend(self) -> None:
        """Lend it to a job until `remove`; meanwhile the lock file names this process."""
        if self._lock < 0:
            return
        self._lent = journal(self.path)
        with contextlib.suppress(OSError):  # a full disk, when a shell is needed
            os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        self._release()

    def remove(self, more: Iterable[str]) -> None:
        """Remove it, what was unpacked by its journal, and `more`, unless it is another agent's."""
        if self._lent is not None:
            with contextlib.suppress(OSError):
                self._lock = self._acquire()
        if self._lock < 0:
            return
        if _is_process(os.pread(self._lock, 20, 0)):
            self._release()  # another shell has it by now
            return
        for path in (*journal(self.path), *(self._lent or ())):
            with contextlib.suppress(OSError):  # never a directory that was made there since
                os.unlink(path)
        for path in (*more, self.path, f"{self.path}.lock"):
            remove(path)
        self._release()

    def _acquire(self) -> int:
        """Return the locked file's descriptor; raise BlockingIOError where another agent has it."""
        lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise
        return lock

    def _release(self) -> None:
        os.close(self._lock)
        self._lock = -1


def _is_process(pid: bytes) -> bool:
    """Return whether this is the number of a process that is there, and not this one's.

    In a restarted container it may be the pid that this process had before.
    """
    return pid.isdigit() and int(pid) != os.getpid() and os.path.exists(f"/proc/{int(pid)}")


def point(link: str, target: str) -> None:
    """Make a symbolic link to a directory, unless it is there; raise AgentError (77, 78).

    What an earlier attempt left under this name is removed.
    """
    try:
        with contextlib.suppress(OSError):
            if os.readlink(link) == target:
                return
        if os.path.lexists(link) and os.lstat(link).st_uid != os.geteuid():
            cause, hint = "owned by another user", "run one job in a container"
            raise AgentError(f"use {link}", cause, code=NO_PERMISSION, hint=hint)
        remove(link)
        os.makedirs(os.path.dirname(link), exist_ok=True)
        os.symlink(target, link)
    except OSError as error:
        hint = "make /tmp writable"
        raise AgentError(f"make {link}", os_reason(error), code=BAD_SETTINGS, hint=hint) from error


def remove(path: str) -> None:
    """Remove a file or a directory tree, as far as it can be removed."""
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            _open(path)
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)
    except OSError:
        pass


def _open(directory: str) -> None:
    """Make a directory tree writable: only root can empty one that isn't."""
    _permit(directory)
    for folder, folders, _ in os.walk(directory):
        for name in folders:
            _permit(os.path.join(folder, name))


def _permit(directory: str) -> None:
    if not os.path.islink(directory):
        with contextlib.suppress(OSError):  # another user's
            os.chmod(directory, 0o700)


def make_directory(path: str, name: str = "") -> None:
    """Make a directory of the run; raise AgentError (73) naming the variable that chose it."""
    fixed = "make /tmp writable: docker run --tmpfs /tmp"
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise AgentError(
            f"make the directory {path}",
            os_reason(error),
            code=CANNOT_WRITE,
            hint=f"set {name} to a path that this user may create" if name else fixed,
        ) from error
