"""Start programs that are killed when this one exits."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
# PyDLL keeps the interpreter lock: between fork and exec no other thread could give it back.
_LIBC = ctypes.PyDLL(None)


def start(
    argv: Sequence[str],
    env: Mapping[str, str] | None = None,
    *,
    stdout: int | IO[bytes] = subprocess.PIPE,
    stderr: int | IO[bytes] = subprocess.PIPE,
    cwd: Path | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own; it gets `death_signal` if this program dies."""
    return subprocess.Popen(
        argv,
        env=None if env is None else dict(env),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        start_new_session=True,
        preexec_fn=_bound_to(os.getpid(), death_signal) if sys.platform == "linux" else None,
    )


def kill_group(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to every process in a program's session."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _bound_to(parent: int, death_signal: signal.Signals) -> Callable[[], None]:
    def bind() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        # A parent that died before the call above sends nothing any more.
        if os.getppid() != parent:
            os._exit(1)

    return bind
