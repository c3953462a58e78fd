"""Report the progress of a transfer at intervals."""

from __future__ import annotations

import threading
import time

from agent.core.model import Emit

_PROGRESS_SHARE, _PROGRESS_SECONDS = 10, 10.0


class Progress:
    """Report a transfer's progress: at most once per 10 % or 10 s. Called from many threads."""

    def __init__(self, emit: Emit, what: str, size: int) -> None:
        self._emit = emit
        self._what = what
        self._size = max(size, 1)
        self._lock = threading.Lock()
        self._seen = 0
        self._reported = 0
        self._reported_at = time.monotonic()

    def __call__(self, count: int) -> None:
        """Count bytes that have arrived."""
        with self._lock:
            self._seen += count
            percent = 100 * self._seen // self._size
            now = time.monotonic()
            share = percent // _PROGRESS_SHARE > self._reported // _PROGRESS_SHARE
            if percent > self._reported and (share or now - self._reported_at >= _PROGRESS_SECONDS):
                self._reported, self._reported_at = percent, now
                self._emit({"event": "progress", "what": self._what, "percent": min(percent, 100)})
