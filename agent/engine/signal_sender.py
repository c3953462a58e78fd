"""Receive signals together with their senders (signalfd(2)): Python's handlers don't have them."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Collection

# The fields of signalfd_siginfo that count: ssi_signo, ssi_errno, ssi_code, ssi_pid.
_FIELDS, _SIZE = struct.Struct("IiiI"), 128
_NONBLOCK, _CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
# From the kernel itself: Ctrl-C in a terminal (siginfo's SI_KERNEL).
_KERNEL = 0x80
_MASK_BYTES = 8


def open_descriptor(numbers: Collection[int]) -> int:
    """Block signals, and return the descriptor from which they are read; -1 where there is none."""
    mask = sum(1 << (number - 1) for number in numbers).to_bytes(_MASK_BYTES, "little")
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(mask.ljust(128, b"\0"), 128)  # sigset_t of the C library
    try:
        fd: int = libc.signalfd(-1, buffer, _NONBLOCK | _CLOEXEC)
    except AttributeError:
        return -1
    if fd >= 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    return fd


def read(fd: int) -> list[tuple[int, str]]:
    """Return the signals that have arrived, each with a description of its sender."""
    try:
        data = os.read(fd, 16 * _SIZE)
    except BlockingIOError:
        return []
    found = []
    for at in range(0, len(data), _SIZE):
        number, _, code, pid = _FIELDS.unpack_from(data, at)
        found.append((number, _sender(code, pid)))
    return found


def _sender(code: int, pid: int) -> str:
    if code == _KERNEL:
        return "the terminal"
    if pid == 0:  # in another pid namespace: docker stop, the platform
        return "outside this container"
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return f"{file.read().strip()} (pid {pid})"
    except OSError:
        return f"pid {pid}"
