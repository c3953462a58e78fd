"""The journal of what private.7z brought into /opt, used to remove it at the end."""

from __future__ import annotations

import contextlib
import os

# In the runtime directory.
JOURNAL = "unpacked.list"


def journal(directory: str) -> list[str]:
    """Return the files that private.7z has brought, by the journal in a runtime directory."""
    with contextlib.suppress(OSError):
        path = os.path.join(directory, JOURNAL)
        with open(path, encoding="utf-8", errors="surrogateescape") as list_:
            return list_.read().split("\0")
    return []
