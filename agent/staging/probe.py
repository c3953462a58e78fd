"""Check that results can be written, before anything is launched. Runs in helper processes."""

from __future__ import annotations

from agent.core.s3_uri import S3Uri
from agent.staging.s3 import Storage


def probe_results(storage: Storage, uri: S3Uri) -> None:
    """Find out in the first minute, not after ten hours, whether results can be written."""
    storage.put(b"", uri)
    storage.remove(uri)
