"""Kill what a node left running, and remove what a killed cluster left."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

DIRECTORY_PREFIX = "architrave-"
_OWNER_FILE = "owner"
_SWEEP_SECONDS = 5.0


def owner() -> str:
    """Return this process's identity; a later one with the same number has another start time."""
    return f"{socket.gethostname()}:{os.getpid()}:{int(psutil.Process().create_time())}"


def is_gone(name: str) -> bool:
    """Return whether an owner was a process of this machine and has exited."""
    host, *rest = name.rsplit(":", 2)
    if host != socket.gethostname() or len(rest) != 2 or not all(part.isdigit() for part in rest):
        return False
    try:
        return int(psutil.Process(int(rest[0])).create_time()) != int(rest[1])
    except psutil.NoSuchProcess:
        return True


def mark(directory: Path) -> None:
    """Write the owner into a temporary directory."""
    (directory / _OWNER_FILE).write_text(owner(), encoding="utf-8")


def is_own(directory: Path) -> bool:
    """Return whether a cluster of this user made a directory: no other user can write into it."""
    try:
        status = directory.lstat()
        marked = (directory / _OWNER_FILE).lstat()
    except OSError:
        return False
    private = stat.S_ISDIR(status.st_mode) and not stat.S_IMODE(status.st_mode) & 0o077
    return private and {status.st_uid, marked.st_uid} == {os.geteuid()}


def remove_directories() -> None:
    """Remove the directories of clusters that are gone, and kill what still runs below them."""
    for file in Path(tempfile.gettempdir()).glob(f"{DIRECTORY_PREFIX}*/{_OWNER_FILE}"):
        with suppress(OSError, UnicodeError):
            if is_own(file.parent) and is_gone(file.read_text(encoding="utf-8")):
                kill_processes(file.parent)
                shutil.rmtree(file.parent, ignore_errors=True)


def kill_processes(root: Path, session: int | None = None) -> None:
    """Kill what runs below a root directory or in a session: a container's exit does so by itself.

    More may start while the first are found, so it looks until there are none.
    """
    deadline = time.monotonic() + _SWEEP_SECONDS
    while (found := _processes(str(root), session)) and time.monotonic() < deadline:
        for each in found:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(found, timeout=1.0)


def _processes(root: str, session: int | None) -> list[psutil.Process]:
    """Return the processes that belong to a root directory or a session, and their children.

    sshd's children carry neither, so descent counts too.
    """
    found: dict[int, psutil.Process] = {}
    for each in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if each.pid != os.getpid() and _belongs(each, root, session):
                for member in (each, *each.children(recursive=True)):
                    found[member.pid] = member
    return [each for each in found.values() if _lives(each)]


def _belongs(process: psutil.Process, root: str, session: int | None) -> bool:
    if session is not None and os.getsid(process.pid) == session:
        return True
    with suppress(psutil.AccessDenied):
        names = (process.cwd(), *process.cmdline(), process.environ().get("ARCHITRAVE_ROOT", ""))
        return any(f"{root}/" in f"{name}/" for name in names)
    return False


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
