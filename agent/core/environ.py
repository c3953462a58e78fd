"""Read the environment, in this module only; and prepend directories to its search paths."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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


def runtime_dir(root: str) -> str:
    """Return the directory of a job's own below `root`; PATH.lock exists as long as the job runs.

    The same path on every node: mpirun's daemons start others with main's ssh configuration. Not in
    /tmp, which programs clean, unless nothing else can be written.
    """
    usual = os.path.join(root, "var/tmp")
    there = usual
    while not os.path.exists(there):
        there = os.path.dirname(there)
    directory = usual if os.access(there, os.W_OK | os.X_OK) else os.path.join(root, "tmp")
    return os.path.join(directory, f".architrave-{os.geteuid()}")


def exit_code_file(env: Mapping[str, str]) -> str:
    """Return the file that a job's exit code is written to for a surrounding program."""
    # By their literal names: the table of variables would cost `exec` its import.
    usual = os.path.join(env.get("ARCHITRAVE_ROOT") or "/", "tmp/batch-exit-code")
    return os.path.abspath(env.get("AWS_BATCH_EXIT_CODE_FILE") or usual)


def region(env: Mapping[str, str]) -> str | None:
    """Return AWS's region as its SDKs find it; botocore by itself reads the second name only."""
    return env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or None


def with_directories(
    env: Mapping[str, str], path: Sequence[str], library_path: Sequence[str]
) -> dict[str, str]:
    """Return `env` with directories prepended to its PATH and LD_LIBRARY_PATH."""
    result = dict(env)
    if path:
        result["PATH"] = ":".join([*path, env.get("PATH", os.defpath)])
    if library_path:
        given = env.get("LD_LIBRARY_PATH")
        result["LD_LIBRARY_PATH"] = ":".join([*library_path, *([given] if given else [])])
    return result
