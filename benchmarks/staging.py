"""Time staging in: from a node's start until its application runs, with both archives or one.

A node of the lambda target's image, as AWS Batch starts one, with deps.tar.gz (the packages of
benchmarks/deps.py), a private.7z of 300 MB, or both at once; seconds from its first log line to the
phase `run`. Run by hand, after benchmarks/deps.py:
PYTHONPATH=. .venv/bin/python benchmarks/staging.py [RUNS] [MEGABYTES] [IMAGE]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from agent.tools.cluster.cluster import Cluster
from agent.tools.cluster.job import Job
from benchmarks.common import make_private, write
from benchmarks.deps import TAG


def main() -> None:
    """Measure each, one after the other, and that several times."""
    default = ("3", "300", "architrave:test-lambda")
    runs, megabytes, image = (*sys.argv[1:], *default[len(sys.argv) - 1 :])
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        private = packed(directory, int(megabytes))
        deps = directory / "deps.tar.gz"
        words = ["docker", "run", "--rm", "--entrypoint", "tar", TAG, "-czC", "/debs", "."]
        with deps.open("wb") as file:
            subprocess.run(words, check=True, stdout=file)
        jobs = {
            "neither": {},
            "private.7z": {"private": private},
            "deps.tar.gz": {"deps": deps},
            "both": {"private": private, "deps": deps},
        }
        seen: dict[str, list[float]] = {name: [] for name in jobs}
        for number in range(int(runs)):
            for name, archives in jobs.items():
                results = directory / f"{name}-{number}"
                job = Job(image=image, env={"APP_BIN": "/bin/true"}, results=results, **archives)
                seen[name].append(seconds_to_run(job))
    medians = {name: statistics.median(times) for name, times in seen.items()}
    for name, median in medians.items():
        print(f"{name:12} {median:6.2f} s")
    write("staging", medians)


def packed(directory: Path, megabytes: int) -> Path:
    """Return private.7z with a file of which half can be compressed, packed to start quickly."""
    data = directory / "data"
    with data.open("wb") as file:
        for _ in range(megabytes // 2):
            file.write(os.urandom(1_000_000) + bytes(1_000_000))
    private = make_private(directory, "-mx1", str(data))
    data.unlink()
    return private


def seconds_to_run(job: Job) -> float:
    """Run a job; return the seconds from its start to the phase `run`."""
    with Cluster(job) as cluster:
        result = cluster.wait()
    assert result.code == 0, job.results_dir
    record = json.loads((job.results_dir / "run.json").read_text())
    (node,) = record["nodes"]
    begins = {span["phase"]: span["start"] for span in node["phases"]}
    return float(begins["run"] - min(begins.values()))


if __name__ == "__main__":
    main()
