"""Find the results: what lies in the output directory and is the application's."""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Iterable, Iterator

Stamp = tuple[int, int, int, int]


def snapshot(directory: str) -> dict[str, Stamp]:
    """Return what tells a changed file from an unchanged one, by path, before the launch."""
    found = {}
    for path in _files(directory):
        with contextlib.suppress(OSError):  # it vanished meanwhile
            found[path] = _stamp(path)
    return found


def results(
    directory: str,
    before: dict[str, Stamp],
    own: Iterable[str],
    exclude: Iterable[str],
    unreadable: list[str],
) -> list[str]:
    """Return the paths, relative to `directory`, that are new or changed since `before`.

    `own` are the agent's files and directories, absolute; `exclude` are shell patterns that match
    a whole relative path or a file's name. Directories that can't be read go to `unreadable`.
    """
    ours = [os.path.abspath(path) for path in own]
    patterns = list(exclude)
    found = []
    for path in _files(directory, unreadable):
        if any(path == one or path.startswith(one + os.sep) for one in ours):
            continue
        relative = os.path.relpath(path, directory)
        names = (relative, os.path.basename(relative))
        if any(fnmatch.fnmatchcase(name, one) for one in patterns for name in names):
            continue
        try:
            if before.get(path) != _stamp(path):
                found.append(relative)
        except OSError:
            continue  # it vanished meanwhile
    return sorted(found)


def _files(directory: str, unreadable: list[str] | None = None) -> Iterator[str]:
    """Yield regular files and links to files within; sockets, pipes and devices hold no result."""

    def note(error: OSError) -> None:
        if unreadable is not None:
            unreadable.append(str(error.filename))

    for folder, _, names in os.walk(os.path.abspath(directory), onerror=note):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                yield path


def _stamp(path: str) -> Stamp:
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
