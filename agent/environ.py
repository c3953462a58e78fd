"""Read the environment: the only place that does."""

from __future__ import annotations

import os


def environment() -> dict[str, str]:
    """Return the environment that this process was given.

    In a C locale Python puts LC_CTYPE into its own environment (PEP 538); the block that the
    kernel keeps does not have it.
    """
    env = dict(os.environ)
    if "LC_CTYPE" in env:
        try:
            with open("/proc/self/environ", "rb") as given:
                if not any(line.startswith(b"LC_CTYPE=") for line in given.read().split(b"\0")):
                    del env["LC_CTYPE"]
        except OSError:
            pass
    return env
