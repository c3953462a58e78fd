"""A start imports what is on these lists and nothing else: every module costs time and memory."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "imports.py"
# What a command needs that is only passed on.
FORWARDS = {
    *(
        "__future__",
        "abc",
        "agent",
        "ctypes",
        "encodings",
        "errno",
        "fcntl",
        "genericpath",
        "heapq",
    ),
    *("itertools", "os", "posixpath", "select", "stat", "struct", "types"),
}
# What the job needs until its application runs.
RUNS = FORWARDS | {
    *("array", "contextlib", "copy", "copyreg", "dataclasses", "fnmatch", "glob", "json", "math"),
    *("collections", "enum", "functools", "keyword", "operator", "pwd", "re"),
    *("reprlib", "shlex", "shutil", "signal", "typing"),
    *("warnings", "weakref", "zlib"),
}


def public(names):
    """Return packages and modules outside of any, less what is a library's or Python's own."""
    return {name.partition(".")[0] for name in names if not name.startswith("_")} | {
        name for name in names if name == "__future__"
    }


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [(["exec", "--", "true"], FORWARDS), (["run"], RUNS)],
    ids=["exec", "run"],
)
def test_nothing_else_is_imported(tmp_path, arguments, allowed):
    env = {"EXEC_TYPE": "lambda", "ARCHITRAVE_LAUNCHER": "direct", "PATH": "/usr/bin:/bin"}
    env |= {"APP_BIN": "/bin/true", "APP_PARAMS": "", "ARCHITRAVE_ROOT": str(tmp_path)}
    command = [sys.executable, "-I", "-S", SCRIPT, tmp_path / "seen", sysconfig.get_path("purelib")]
    subprocess.run([*command, *arguments], env=env, check=True, capture_output=True, timeout=60)
    seen = (tmp_path / "seen").read_text().split()
    assert public(seen) - allowed == set()
    heavy = {"asyncio", "boto3", "paramiko", "psutil", "ssl", "structlog", "subprocess"}
    assert not heavy & public(seen)
