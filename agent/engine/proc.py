"""Read /proc on kernels that were built without some of its files."""

from __future__ import annotations

import os


def children_by_status() -> set[int]:
    """Return this process's children where the kernel was built without /proc/…/children."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            continue
        if parent == os.getpid():
            found.add(int(name))
    return found
