"""Find the results: the application's files in the output directory."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from agent.core.result_files import HIDDEN, NODE_LOG
from agent.staging.exclude import Exclude

Stamp = tuple[int, int, int, int]
_LINK: Stamp = (0, 0, 0, 0)  # to a directory
# What the agent writes beside the results, and how each begins.
_DOCUMENTS = {
    "run.json": b'"schema": "architrave-run/',
    "report.html": b"<title>architrave: ",
}
_CORE_NAME, _ET_CORE = re.compile(r"core|core\.\d+|.+\.core"), b"\x04"
# A million names take a second to sort, in which nothing else is done here.
_SORTED = 10_000
# How many entries of a working directory are looked at (in some 30 ms, which every job waits for),
# and how many of its files are named.
_LOOKS, UNSAVED_NAMED = 5_000, 100


@dataclass
class LeftOut:
    """What is not a result: directories that can't be read, links to some elsewhere, core dumps.

    `unmatched` are the patterns that have excluded nothing.
    """

    unreadable: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    cores: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)


@dataclass
class Unsaved:
    """What the application left in a working directory that isn't uploaded; the first names."""

    directory: str
    files: list[str]
    count: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {"directory": self.directory, "files": self.files, "count": self.count}


def snapshot(
    directory: str, scratch: str, unpacked: Iterable[str], poll_events: Callable[[], None]
) -> dict[str, Stamp]:
    """Return what is not a result unless it changes, by path, with what shows a change.

    In `scratch` (/tmp) itself that is everything that is there before the launch. A directory that
    was given for results may hold those of an earlier attempt: there it is what the image brought,
    what was unpacked from the archives (`unpacked`), and the documents that an earlier run left.

    `poll_events` is called for each: there may be a million, and heartbeats are due meanwhile.
    """
    top = os.path.abspath(directory)
    anything = os.path.realpath(top) == os.path.realpath(scratch)
    device, made = _image()

    def brought(status: os.stat_result) -> bool:
        return status.st_dev == device and status.st_ctime < made

    theirs = _within(os.path.realpath(top), unpacked)
    found = {}
    left_out = LeftOut()
    for path in _files(directory, left_out):
        poll_events()
        with contextlib.suppress(OSError):  # it vanished meanwhile
            status = os.stat(path)
            if (
                anything
                or brought(status)
                or (theirs and _is_below(os.path.realpath(path), theirs))
                or (os.path.dirname(path) == top and _is_document(path))
            ):
                found[path] = _stamp_of(status)
    links = [path for path in left_out.links if anything or brought(os.lstat(path))]
    return found | dict.fromkeys(links, _LINK)


def _within(top: str, paths: Iterable[str]) -> set[str]:
    """Return those of some files and directories that are related to a directory."""
    real = {os.path.realpath(path) for path in paths}
    return {path for path in real if os.path.commonpath([path, top]) in (path, top)}


def _is_below(path: str, tops: set[str]) -> bool:
    """Return whether a path, or a directory that it is in, is one of some."""
    while path not in tops and path != "/":
        path = os.path.dirname(path)
    return path in tops


def _image() -> tuple[int, float]:
    """Return the device of the image's files, and when the container was made from it.

    Outside of a container nothing was brought by an image: device -1. A file of an earlier attempt
    in the same container is newer than the container, and a volume is another device.
    """
    root = os.stat("/").st_dev
    for path in ("/.dockerenv", "/run/.containerenv"):  # Docker's, podman's
        with contextlib.suppress(OSError):
            return root, os.lstat(path).st_ctime
    with contextlib.suppress(OSError, ValueError), open("/proc/self/mounts") as mounts:
        kinds = [line.split()[2] for line in mounts if line.split()[1] == "/"]
        if kinds and "overlay" in kinds[-1]:
            return root, _start_of_init()
    return -1, 0.0


def _start_of_init() -> float:
    """Return when PID 1 was started, in seconds since 1970; raise OSError or ValueError."""
    with open("/proc/1/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/stat") as file:
        boot = next(int(line.split()[1]) for line in file if line.startswith("btime "))
    return boot + ticks / os.sysconf("SC_CLK_TCK")


def _is_document(path: str) -> bool:
    """Return whether a file is the record or the page that an agent wrote beside results."""
    start = _DOCUMENTS.get(os.path.basename(path))
    if start is None:
        return False
    with open(path, "rb") as file:
        return start in file.read(1024)


def results(
    directory: str,
    before: dict[str, Stamp],
    own: Iterable[str],
    exclude: Iterable[str],
    left_out: LeftOut,
    poll_events: Callable[[], None],
    *,
    cores: bool = False,
) -> list[str]:
    """Return the paths, relative to `directory`, that are new or changed since `before`.

    `own` are the agent's files and directories, absolute; `exclude` are the patterns of `Exclude`;
    core dumps are results only with `cores`. `poll_events` is called for each.
    """
    ours = [os.path.abspath(path) for path in own]
    excluded = Exclude(exclude)

    def name_of(path: str) -> str:
        """Return the relative name, empty for what is ours or excluded."""
        if any(path == one or path.startswith(one + os.sep) for one in ours):
            return ""
        relative = os.path.relpath(path, directory)
        if relative.startswith((HIDDEN, NODE_LOG)):
            return ""
        return "" if excluded(relative) else relative

    found: list[str] = []
    for path in _files(directory, left_out):
        poll_events()
        name = name_of(path)
        if not name:
            continue
        try:
            if before.get(path) == _stamp(path):
                continue
            (found if cores or not _is_core(path) else left_out.cores).append(name)
        except OSError:
            continue  # it vanished meanwhile
    left_out.unmatched = excluded.unmatched()
    left_out.links = [path for path in left_out.links if path not in before and name_of(path)]
    return found if len(found) > _SORTED else sorted(found)


def _is_core(path: str) -> bool:
    """Return whether a file is a core dump by its name (core(5)) and its content."""
    if not _CORE_NAME.fullmatch(os.path.basename(path)):
        return False
    head = b""
    with contextlib.suppress(OSError), open(path, "rb") as file:  # one that can't be read is named
        head = file.read(18)
    return head[:4] == b"\x7fELF" and _ET_CORE in (head[16:17], head[17:18])


def unsaved(
    directory: str,
    since: float,
    own: Iterable[str],
    known: Iterable[str],
    poll_events: Callable[[], None],
) -> Unsaved | None:
    """Return what was made or changed below a working directory `since`, seconds since 1970.

    `own` are the directories and files that don't count: the results, the agent's own. `known` are
    names in it that were there before, whose content is not looked at. Other file systems below it
    aren't either. The search is bounded: it is for a warning.
    """
    ours = {os.path.realpath(path) for path in own}
    left = _LOOKS
    found: list[str] = []
    count = 0
    try:
        device = os.stat(directory).st_dev
    except OSError:
        return None
    folders = collections.deque([os.path.realpath(directory)])
    top = folders[0]
    skipped = {os.path.join(top, name) for name in known}
    while folders and left > 0:
        folder = folders.popleft()  # the nearest ones first
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                poll_events()
                left -= 1
                if entry.path in ours or left <= 0:
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # it vanished meanwhile
                if stat.S_ISDIR(status.st_mode):
                    if status.st_dev == device and entry.path not in skipped:
                        folders.append(entry.path)
                elif stat.S_ISREG(status.st_mode) and status.st_ctime >= since:
                    count += 1
                    if len(found) < UNSAVED_NAMED:
                        found.append(os.path.relpath(entry.path, top))
    return Unsaved(top, sorted(found), count) if count else None


def _files(directory: str, left_out: LeftOut) -> Iterator[str]:
    """Yield regular files and links to files; sockets, pipes and devices hold no result.

    A link to a directory isn't followed: it may lead to the whole system, or be circular.
    """
    top = os.path.abspath(directory)
    within = os.path.realpath(top)

    def note(error: OSError) -> None:
        left_out.unreadable.append(str(error.filename))

    for folder, directories, names in os.walk(top, onerror=note):
        for name in directories:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                continue
            if os.path.commonpath([os.path.realpath(path), within]) != within:
                left_out.links.append(path)
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                yield path


def _stamp(path: str) -> Stamp:
    return _stamp_of(os.stat(path))


def _stamp_of(status: os.stat_result) -> Stamp:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
