"""Watch what an agent holds while its application runs: much output, a long run, several nodes.

Printed: resident MiB of the agent at the first and last sample, and the peak; for the nodes of a
cluster the proportional share (PSS) of every process of the agent's. Run by hand, as root, since
the containers' processes are looked at from outside:
PYTHONPATH=. .venv/bin/python benchmarks/memory.py [GIGABYTES] [MINUTES] [IMAGE]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.tools.cluster.cluster import Cluster
from agent.tools.cluster.containers import Container
from agent.tools.cluster.job import Job
from benchmarks.common import REPOSITORY, inspect, make_private, write

JOB = {"EXEC_TYPE": "lambda", "ARCHITRAVE_LAUNCHER": "direct", "APP_BIN": "/bin/sh"}
SETTLED_SECONDS = 4.0  # the start is over, structlog and psutil are imported
NOT_OURS = {"sshd", "sleep", "sh", "mpirun", "orted"}


def main() -> None:
    """Measure, print, write build/memory.json."""
    default = ("10", "60", "architrave:test")
    gigabytes, minutes, image = (*sys.argv[1:], *default[len(sys.argv) - 1 :])
    line = f"i=0; while [ $i -lt {60 * int(minutes)} ]; do echo line $i; i=$((i+1)); sleep 1; done"
    found = {
        f"{gigabytes} GB of output": watch(image, f"head -c {gigabytes}GB /dev/zero", every=0.5),
        f"{minutes} minutes, a line a second": watch(image, line, every=10),
    }
    for name, row in found.items():
        first, last, peak = (row[key] for key in ("first", "last", "peak"))
        print(f"{name:34} {first:5.1f} MiB at first, {last:5.1f} at last, peak {peak:5.1f}")
    shares = nodes(image)
    for name, processes in shares.items():
        total = sum(processes.values())
        print(
            f"{name:34} {total:5.1f} MiB in all:", *(f"{k} {v:.1f}" for k, v in processes.items())
        )
    write("memory", {"runs": found, "nodes": shares})


def watch(image: str, script: str, every: float) -> dict[str, Any]:
    """Run a job and sample its agent; return resident MiB, and the curve with its seconds."""
    env = [word for item in JOB.items() for word in ("-e", "=".join(item))]
    env += ["-e", f"APP_PARAMS=-c '{script}'"]
    with tempfile.TemporaryDirectory(dir=REPOSITORY / "build") as results:
        Path(results).chmod(0o777)
        name = f"architrave-memory-{time.time_ns()}"
        words = ["docker", "run", "--rm", "--name", name, "--log-driver", "none"]
        job = subprocess.Popen(
            [*words, "-v", f"{results}:/tmp", *env, image],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(SETTLED_SECONDS)
        pid = inspect(name, "{{.State.Pid}}")
        curve = []
        start = time.monotonic()
        while job.poll() is None:
            with suppress(OSError, KeyError):  # it has exited meanwhile
                curve.append((round(time.monotonic() - start, 1), field(pid, "status", "VmRSS")))
            time.sleep(every)
        assert job.wait() == 0
    resident = [mib for _, mib in curve]
    return {"first": resident[0], "last": resident[-1], "peak": max(resident), "curve": curve}


def nodes(image: str) -> dict[str, dict[str, float]]:
    """Run three nodes; return the proportional MiB of each process of the agents', by node."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        env = {"APP_BIN": "/bin/sleep", "APP_PARAMS": "12"}
        private = make_private(directory)
        job = Job(nodes=3, image=image, private=private, env=env, results=directory / "results")
        with Cluster(job) as cluster:
            cluster.wait_phase(0, "run")
            time.sleep(SETTLED_SECONDS)
            found = {
                "the main node" if index == 0 else f"worker {index}": shares(node.name)
                for index, node in cluster.nodes.items()
                if isinstance(node, Container)
            }
            assert cluster.wait().code == 0
    return found


def shares(container: str) -> dict[str, float]:
    """Return the proportional MiB of each process of the agent's in a container."""
    text = subprocess.run(
        ["docker", "top", container, "-eo", "pid,comm"], check=True, capture_output=True, text=True
    ).stdout
    found: dict[str, float] = {}
    for number, line in enumerate(text.splitlines()[1:]):
        pid, comm = line.split(None, 1)
        if comm not in NOT_OURS:
            found[f"{number} {comm}"] = field(pid, "smaps_rollup", "Pss")
    return found


def field(pid: str, file: str, name: str) -> float:
    """Return a field of a process's file in /proc, in MiB."""
    with open(f"/proc/{pid}/{file}") as lines:
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields[name].split()[0]) / 1024


if __name__ == "__main__":
    main()
