"""Find the results: what lies in the output directory and is the application's."""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

Stamp = tuple[int, int, int, int]
_LINK: Stamp = (0, 0, 0, 0)  # to a directory


@dataclass
class LeftOut:
    """What is no result: directories that can't be read, and links to some that lie elsewhere."""

    unreadable: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)


def snapshot(directory: str, breathe: Callable[[], None]) -> dict[str, Stamp]:
    """Return what tells a changed file from an unchanged one, by path, before the launch.

    `breathe` is called for each: there may be a million, and nodes have to show that they live.
    """
    found = {}
    left_out = LeftOut()
    for path in _files(directory, left_out):
        breathe()
        with contextlib.suppress(OSError):  # it vanished meanwhile
            found[path] = _stamp(path)
    return found | dict.fromkeys(left_out.links, _LINK)


def results(
    directory: str,
    before: dict[str, Stamp],
    own: Iterable[str],
    exclude: Iterable[str],
    left_out: LeftOut,
    breathe: Callable[[], None],
) -> list[str]:
    """Return the paths, relative to `directory`, that are new or changed since `before`.

    `own` are the agent's files and directories, absolute; `exclude` are shell patterns that match
    a whole relative path or a file's name. `breathe` is called for each.
    """
    ours = [os.path.abspath(path) for path in own]
    patterns = list(exclude)

    def name_of(path: str) -> str:
        """Return the relative name, empty for what is ours or excluded."""
        if any(path == one or path.startswith(one + os.sep) for one in ours):
            return ""
        relative = os.path.relpath(path, directory)
        names = (relative, os.path.basename(relative))
        excluded = any(fnmatch.fnmatchcase(name, one) for one in patterns for name in names)
        return "" if excluded else relative

    found = []
    for path in _files(directory, left_out):
        breathe()
        name = name_of(path)
        if not name:
            continue
        try:
            if before.get(path) != _stamp(path):
                found.append(name)
        except OSError:
            continue  # it vanished meanwhile
    left_out.links = [path for path in left_out.links if path not in before and name_of(path)]
    return sorted(found)


def _files(directory: str, left_out: LeftOut) -> Iterator[str]:
    """Yield regular files and links to files; sockets, pipes and devices hold no result.

    A link to a directory isn't followed: it may lead to the whole system, or round in a circle.
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
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
