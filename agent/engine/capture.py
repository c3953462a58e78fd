"""Run an external program and capture its output; wait for its exit, not for its pipes.

A pipe stays open as long as any process holds it, for example a daemon that the program left
behind: subprocess.run would wait for that without a bound, even after its timeout. So the output
goes to a file in memory.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Completed:
    """A program's exit code, and what it wrote to standard output and standard error."""

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
