"""Print one table of what the other scripts have measured: ours, the peers, the target.

PYTHONPATH=. .venv/bin/python benchmarks/summary.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from benchmarks.common import REPOSITORY

# What, ours, the peers, the target as (compare, value).
Row = tuple[str, float, str, str, float]


def main() -> None:
    """Print a row for each target whose figures are there."""
    parts = (start, image, memory, output, nodes, moving)
    rows = [row for part in parts for row in part()]
    print("| what | ours | peers | target | met |\n|---|---|---|---|---|")
    for what, ours, peers, compare, target in rows:
        met = ours <= target if compare == "<=" else ours >= target
        sign = {"<=": "at most", ">=": "at least"}[compare]
        print(f"| {what} | {ours:.3g} | {peers} | {sign} {target:g} | {'yes' if met else 'no'} |")


def figures(name: str) -> Any:
    """Return what a script has measured, None if it has not run."""
    file = REPOSITORY / f"build/{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def beside(values: dict[str, Any], ours: str, form: str = "{:.3g}") -> str:
    """Return the peers' figures as text."""
    return ", ".join(f"{name} {form.format(v)}" for name, v in values.items() if name != ours)


def start() -> Iterator[Row]:
    """Yield what a start costs."""
    if found := figures("start"):
        bare = found["start"]["bare Python"]
        ratios = {name: value / bare for name, value in found["start"].items()}
        ours = "architrave exec"
        yield "exec, x the bare Python init", ratios[ours], beside(ratios, ours), "<=", 1.3
        yield "signals blocked, ms", found["blocked"], "", "<=", 20
        yield "Lambda mode beside its application, ms", found["job"], "", "<=", 100
        wakes = {name: wakes for name, (_, wakes) in found["idle"].items()}
        ours = "architrave job"
        yield "wake-ups a second of a silent job", wakes[ours], beside(wakes, ours), "<=", 1.1


def image() -> Iterator[Row]:
    """Yield what an image weighs where it is sent."""
    if found := figures("image"):
        for name, size in found["saved_mb"].items():
            yield f"MB of the image {name}", size, "", "<=", 256


def memory() -> Iterator[Row]:
    """Yield what is held while the application runs."""
    if found := figures("memory"):
        for name, row in found["runs"].items():
            yield (
                f"MiB more at the end than at first, {name}",
                row["last"] - row["first"],
                "",
                "<=",
                1,
            )
        for name, parts in found["nodes"].items():
            held = parts if name != "the main node" else {"agent": next(iter(parts.values()))}
            target = 18 if name == "the main node" else 20
            yield f"MiB held on {name}", sum(held.values()), "supervisord 29", "<=", target


def output() -> Iterator[Row]:
    """Yield what passing output through costs."""
    if found := figures("output"):
        ratio = found["tee"][0] / found["architrave"][0]
        yield "output, x tee's speed", ratio, "tee 1", ">=", 0.8
        seconds = {name: row[1] for name, row in found.items()}
        ours = "architrave"
        yield (
            "output: processor seconds of 1 GB",
            seconds[ours],
            beside(seconds, ours),
            "<=",
            1.0,
        )


def nodes() -> Iterator[Row]:
    """Yield what several nodes cost."""
    for row in figures("joining") or []:
        yield f"s until {row['workers']} workers are in", row["seconds"], "", "<=", 20
        yield f"workers refused of {row['workers']}", row["refused"], "", "<=", 0
    if found := figures("whole_job"):
        median = found["median"]
        yield "s of the whole job on three nodes", median["seconds"], "run.sh 21", "<=", 4
        yield "s of it the agents' own", median["agent_seconds"], "", "<=", 2


def moving() -> Iterator[Row]:
    """Yield what moving data and installing takes."""
    for task, peers in (figures("transfers") or {}).items():
        walls = {peer: row[0] for peer, row in peers.items()}
        fastest = min(wall for peer, wall in walls.items() if peer != "ours")
        ratio = fastest / walls["ours"]
        yield f"{task}, x the fastest peer", ratio, beside(walls, "ours", "{:.2f} s"), ">=", 0.9
    if found := figures("deps"):
        ratios = {name: seconds / found["dpkg -i"] for name, seconds in found.items()}
        ours = "architrave"
        yield "packages, x dpkg -i", ratios[ours], beside(ratios, ours), "<=", 0.34
    if found := figures("staging"):
        yield "s of staging in", found["both"], beside(found, "both", "{:.2f} s"), "<=", 4


if __name__ == "__main__":
    main()
