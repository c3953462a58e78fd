"""Try whether results can be written, before anything is launched. Runs in helper processes."""

from __future__ import annotations

from agent.core.s3place import S3Place
from agent.staging.s3 import Storage


def probe_place(storage: Storage, place: S3Place) -> None:
    """Find out in the first minute, not after ten hours, whether results can be written."""
    storage.put(b"", place)
    storage.remove(place)
