"""Time the whole job on three containers: from the first one's start to the last one's end.

Both are the Docker engine's own times, so that the client's don't count.

The application sleeps for 1.2 s under mpirun; private.7z comes from S3, results and the record go
there. Run by hand: PYTHONPATH=. .venv/bin/python benchmarks/whole_job.py [RUNS]
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from agent.tools.cluster.cluster import Cluster
from agent.tools.cluster.containers import Container
from agent.tools.cluster.job import Job
from benchmarks.common import inspect, make_private, write

APPLICATION_SECONDS = 1.2


def run(directory: Path, private: Path) -> dict[str, float]:
    """Run the job once; return seconds in total, and those of the agents only."""
    job = Job(
        nodes=3,
        image="architrave:test",
        private=private,
        env={"APP_BIN": "/bin/sleep", "APP_PARAMS": str(APPLICATION_SECONDS)},
        results=directory,
    )
    with Cluster(job) as cluster:
        result = cluster.wait()
        assert result.code == 0, directory
        spans = [span(node.name) for node in cluster.nodes.values() if isinstance(node, Container)]
    seconds = (max(end for _, end in spans) - min(start for start, _ in spans)).total_seconds()
    record = json.loads((directory / "run.json").read_text())
    return {"seconds": seconds, "agent_seconds": seconds - record["times"]["real"]}


def span(container: str) -> list[datetime]:
    """Return when a container started and exited."""
    form = "{{.State.StartedAt}} {{.State.FinishedAt}}"
    return [datetime.fromisoformat(word) for word in inspect(container, form).split()]


def main() -> None:
    """Run several times and print medians."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        private = make_private(directory)
        found = [run(directory / f"run-{number}", private) for number in range(runs)]
    medians = {key: round(statistics.median(one[key] for one in found), 2) for key in found[0]}
    print(f"{medians['seconds']} s, {medians['agent_seconds']} s of it the agents' own")
    write("whole_job", {"median": medians, "all": found})


if __name__ == "__main__":
    main()
