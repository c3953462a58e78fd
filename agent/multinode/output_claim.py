"""Decide which node uploads a directory that several nodes share."""

from __future__ import annotations

import contextlib
import os

from agent.core.result_files import HIDDEN


def _path(directory: str, token: str) -> str:
    """Return the file that names a directory's owner; `token` is this attempt's own."""
    return os.path.join(directory, f"{HIDDEN}owner-{token}")


def claim(directory: str, token: str, index: int) -> int:
    """Claim a directory of results for a node; return the index of the one that has it.

    The first claim wins, on a network file system too; the main node claims before all others. A
    directory that can't be written to isn't shared either.
    """
    path = _path(directory, token)
    try:
        _make(path, index)
        return index
    except FileExistsError:
        return _owner(path, index)
    except OSError:
        return index


def _make(path: str, index: int) -> None:
    """Make a claim and name its owner in one step: a helper may be killed between two."""
    try:
        os.symlink(str(index), path)
    except FileExistsError:
        raise
    except OSError:  # a file system without symbolic links
        with open(path, "x", encoding="ascii") as file:
            file.write(str(index))


def release(directory: str, token: str, index: int) -> None:
    """Remove a node's claim, if it has one; another node's stays."""
    path = _path(directory, token)
    with contextlib.suppress(OSError):
        if _owner(path, -1) == index:
            os.unlink(path)


def _owner(path: str, index: int) -> int:
    """Return the owner in a claim; one that is not written yet, or never was, is a claim too."""
    try:
        text = os.readlink(path) if os.path.islink(path) else _read(path)
    except OSError:
        return index
    return int(text) if text.isdigit() else -1


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read(20)
