"""Run a program of others' and take what it writes, waiting for its own end and nothing else's.

A pipe stays open as long as any process holds it: a daemon that a program leaves behind would be
waited for too, without a bound (subprocess.run waits for the pipe even after its timeout). A file
in memory has no such end.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Completed:
    """How a program ended, and what it wrote to standard output and standard error."""

    code: int
    out: str
    err: str


def run(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, seconds: float | None = None
) -> Completed:
    """Run a program; raise OSError, or subprocess.TimeoutExpired when it takes too long."""
    out, err = (os.memfd_create(name) for name in ("out", "err"))
    try:
        done = subprocess.run(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            timeout=seconds,
            check=False,
        )
        return Completed(done.returncode, _text(out), _text(err))
    finally:
        os.close(out)
        os.close(err)


def _text(fd: int) -> str:
    return os.pread(fd, _MAX_BYTES, 0).decode("utf-8", "replace")
