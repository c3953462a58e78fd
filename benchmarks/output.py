"""Compare how fast the application's output goes through to a reader and into a file: `tee`.

Printed: wall seconds, MB a second, processor seconds of the one in the middle, medians. Run by
hand: .tox/tests/bin/python benchmarks/output.py [RUNS] [MEGABYTES]
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import REPOSITORY, write

JOB = {"EXEC_TYPE": "lambda", "ARCHITRAVE_LAUNCHER": "direct", "APP_BIN": "/usr/bin/head"}


def main() -> None:
    """Measure both, one after the other, and that several times."""
    runs, size = (int(word) for word in (*sys.argv[1:], *("5", "1000")[len(sys.argv) - 1 :]))
    seen: dict[str, list[tuple[float, float]]] = {"tee": [], "architrave": []}
    directory = Path(tempfile.mkdtemp(prefix="architrave-bench-"))
    try:
        for number in range(runs):
            root = directory / f"root-{number}"
            root.mkdir()
            seen["tee"].append(tee(size, root))
            seen["architrave"].append(agent(size, root))
            shutil.rmtree(root)
    finally:
        shutil.rmtree(directory)
    table = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)]
        for name, rows in seen.items()
    }
    for name, (seconds, cpu) in table.items():
        print(f"{name:10} {seconds:6.2f} s  {size / seconds:7.0f} MB/s  {cpu:5.2f} s of processor")
    print(f"ratio {table['tee'][0] / table['architrave'][0]:.2f}")
    write("output", table)


def reader() -> subprocess.Popen[bytes]:
    """Return a process that reads what comes and throws it away."""
    return subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


def tee(size: int, root: Path) -> tuple[float, float]:
    """Return wall and processor seconds of tee."""
    start = time.monotonic()
    with reader() as cat:
        command = ["head", "-c", f"{size}MB", "/dev/zero"]
        source = subprocess.Popen(command, stdout=subprocess.PIPE)
        middle = subprocess.Popen(["tee", root / "file"], stdin=source.stdout, stdout=cat.stdin)
        assert source.stdout is not None and cat.stdin is not None
        source.stdout.close()
        _, _, usage = os.wait4(middle.pid, 0)
        middle.returncode = 0
        seconds = time.monotonic() - start
        source.wait()
    return seconds, usage.ru_utime + usage.ru_stime


def agent(size: int, root: Path) -> tuple[float, float]:
    """Return wall and processor seconds of the agent only, less those of a job without output."""
    quick = run(0, root)
    long = run(size, root)
    return long[0] - quick[0], long[1] - quick[1]


def run(size: int, root: Path) -> tuple[float, float]:
    """Run a job that writes so much; the processor seconds of its application don't count."""
    env = JOB | {"APP_PARAMS": f"-c {size}MB /dev/zero", "ARCHITRAVE_ROOT": str(root)}
    start = time.monotonic()
    with reader() as cat:
        process = subprocess.Popen(
            [sys.executable, "-m", "agent", "run"],
            env={"PATH": os.environ["PATH"], **env},
            cwd=REPOSITORY,
            stdout=cat.stdin,
            stderr=subprocess.DEVNULL,
        )
        assert cat.stdin is not None
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - start
    assert process.returncode == 0
    application = json.loads((root / "tmp/run.json").read_text())["times"]
    total = usage.ru_utime + usage.ru_stime
    return seconds, total - application["user"] - application["sys"]


if __name__ == "__main__":
    main()
