"""Draw the figures in build/*.json into docs/explanation/performance/, as far as they are there.

build/peers/bin/python benchmarks/plots.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
# The same figures give the same files.
matplotlib.rcParams.update({"svg.hashsalt": "architrave", "svg.fonttype": "none", "font.size": 9})

from matplotlib import pyplot  # noqa: E402

REPOSITORY = Path(__file__).parent.parent
TARGET = REPOSITORY / "docs/explanation/performance"
OURS, THEIRS = "#c2410c", "#94a3b8"


def main() -> None:
    """Draw what has been measured."""
    TARGET.mkdir(exist_ok=True)
    for name, draw in (("start", start), ("memory", memory), ("joining", joining),
                       ("transfers", transfers)):  # fmt: skip
        file = REPOSITORY / f"build/{name}.json"
        if file.exists():
            figure = draw(json.loads(file.read_text()))
            figure.savefig(TARGET / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
            print(TARGET / f"{name}.svg")


def bars(axes: Any, values: dict[str, float], title: str) -> None:
    """Draw one bar for each name, ours in its own colour."""
    colours = [OURS if "architrave" in name or name == "ours" else THEIRS for name in values]
    drawn = axes.barh(list(values), list(values.values()), color=colours)
    axes.bar_label(drawn, fmt="%.3g", padding=3)
    axes.set_title(title, loc="left")
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)


def start(found: Any) -> Any:
    """Draw starts and resident memory beside the other inits."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 2.6), layout="constrained")
    bars(left, found["start"], "start of `true`, ms")
    resident = {name: values[0] for name, values in found["idle"].items()}
    bars(right, resident, "resident while the command sleeps, MiB")
    return figure


def memory(found: Any) -> Any:
    """Draw the resident memory of the agent over each run."""
    figure, axes = pyplot.subplots(1, len(found["runs"]), figsize=(9, 2.4), layout="constrained")
    for each, (name, row) in zip(axes, found["runs"].items(), strict=True):
        seconds, resident = zip(*row["curve"], strict=True)
        each.plot(seconds, resident, color=OURS)
        each.set_ylim(0, 20)
        each.set_title(f"{name}: resident MiB", loc="left")
        each.set_xlabel("seconds")
        each.spines[["top", "right"]].set_visible(False)
    return figure


def joining(rows: Any) -> Any:
    """Draw what the main node spends per worker, and how long all take, by their number."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 2.6), layout="constrained")
    counts = [row["workers"] for row in rows]
    each = [1000 * row["cpu_seconds"] / row["workers"] for row in rows]
    left.plot(counts, each, "o-", color=OURS)
    left.set_title("main node, ms of processor per worker", loc="left")
    right.plot(counts, [row["seconds"] for row in rows], "o-", color=OURS)
    right.set_title("seconds until all are in", loc="left")
    for axes in (left, right):
        axes.set_ylim(0)
        axes.set_xlabel("workers")
        axes.set_xticks(counts)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def transfers(table: Any) -> Any:
    """Draw the wall time of each task, ours and the peers'."""
    figure, axes = pyplot.subplots(1, len(table), figsize=(9, 2.2), layout="constrained")
    for each, (task, peers) in zip(axes, table.items(), strict=True):
        bars(each, {peer: row[0] for peer, row in peers.items()}, f"{task}, seconds")
    return figure


if __name__ == "__main__":
    main()
