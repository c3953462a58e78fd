"""Make report.html from a run's record: one self-contained page without scripts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import zip_longest
from typing import Any

from agent.core import units
from agent.core.model import FETCH, PHASES, UNPACK, Emit
from agent.report import charts
from agent.report.advice import advice
from agent.report.reader import Machine, Run, outcome, read

READY = (FETCH, UNPACK)
_SLOWEST = 10
_TEMPLATES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")


@dataclass(frozen=True)
class Row:
    """One line of a comparison."""

    name: str
    first: str
    second: str
    change: str


def load() -> None:
    """Import and compile slow modules, for a process that will need them."""
    import pygal  # noqa: F401

    for name in ("page.html", "parts.html"):
        _templates().get_template(name)


def report(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Write the page of the record whose path is the next line of standard input, as JSON.

    `request`: path. The libraries are imported before the line arrives. Returns {"path"}.
    """
    load()
    with open(json.loads(sys.stdin.readline()), encoding="utf-8") as file:
        record = json.load(file)
    text = page(read(record))
    # No existing file is written to: it may be a pipe, or a link to elsewhere.
    with open(request["path"], "x", encoding="utf-8") as file:
        file.write(text)
    return {"path": request["path"]}


def page(run: Run) -> str:
    """Return the page of one run."""
    node = run.main_node or next(iter(run.nodes), None)
    return _rendered(
        "page.html",
        run=run,
        advice=advice(run),
        timelines=charts.timelines(run) if run.nodes else [],
        curves=charts.curves(run),
        fetched=node.fetched if node else [],
        versions=list(node.versions.items()) if node else [],
    )


def comparison(first: Run, second: Run) -> str:
    """Return the page of two runs side by side; their drawings share their scales."""
    peaks = charts.tops([first, second])
    end = max(first.seconds, second.seconds)
    sides: list[dict[str, Any]] = [
        {
            "name": name,
            "run": run,
            "advice": advice(run),
            "timeline": _named(name, charts.timeline(run, end)) if run.nodes else None,
        }
        for name, run in (("First", first), ("Second", second))
    ]
    curves = ([_named(s["name"], one) for one in charts.curves(s["run"], peaks)] for s in sides)
    pairs = list(zip_longest(*curves))
    return _rendered("compare.html", sides=sides, pairs=pairs, rows=list(rows_of(first, second)))


def _named(name: str, chart: charts.Chart) -> charts.Chart:
    """Return a chart with its run in the title, since a phone shows it without the other one."""
    return replace(chart, title=f"{name}: {chart.title}")


def rows_of(first: Run, second: Run) -> Iterator[Row]:
    """Yield the figures of two runs, with what has changed."""
    yield Row("exit code", str(first.code), str(second.code), "")
    yield Row("nodes", str(first.count), str(second.count), "")
    figures = [(title, text, (of(first), of(second))) for title, text, of in _FIGURES]
    figures[2:2] = [
        (
            f"{phase}, slowest node",
            units.duration,
            (_longest(first, phase), _longest(second, phase)),
        )
        for phase in PHASES
        if phase in first.phases or phase in second.phases
    ]
    for title, text, (one, other) in figures:
        change = f"{100 * (other - one) / one:+.0f} %" if one else ""
        yield Row(title, text(one), text(other), change)


def _longest(run: Run, phase: str) -> float:
    return max((one.seconds for one in run.phases.get(phase, [])), default=0.0)


def total(run: Run, name: str) -> float:
    """Return a figure of all nodes together."""
    return sum(node.peaks.get(name, 0.0) for node in run.nodes)


def highest(run: Run, name: str) -> float:
    """Return the highest peak of any node."""
    return max((node.peaks.get(name, 0.0) for node in run.nodes), default=0.0)


_FIGURES: list[tuple[str, Callable[[float], str], Callable[[Run], float]]] = [
    ("whole job", units.duration, lambda run: run.seconds),
    ("application", units.duration, lambda run: run.times.get("real", 0.0)),
    ("processor time", units.duration, lambda run: total(run, "cpu_seconds")),
    ("processors, peak", units.three_digits, lambda run: highest(run, "processors")),
    ("memory, peak", units.size, lambda run: highest(run, "resident_bytes")),
    ("disk, read", units.size, lambda run: total(run, "read_bytes")),
    ("disk, written", units.size, lambda run: total(run, "written_bytes")),
    ("network, received", units.size, lambda run: total(run, "received_bytes")),
    ("network, sent", units.size, lambda run: total(run, "sent_bytes")),
    ("results", units.size, lambda run: sum(size for _, size in run.files)),
]


def slowest(run: Run) -> list[tuple[Machine, float]]:
    """Return the nodes that were ready last, and when, in seconds since the first node began."""
    ready = [
        (node, next((one.end for one in node.stages[::-1] if one.phase in READY), node.started))
        for node in run.nodes
    ]
    return sorted(ready, key=lambda one: -one[1])[:_SLOWEST]


def _rendered(name: str, **values: Any) -> str:
    return str(_templates().get_template(name).render(**values))


@cache
def _templates() -> Any:
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    env = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    with open(os.path.join(_TEMPLATES, "page.css"), encoding="utf-8") as file:
        css = Markup(file.read())
    env.globals |= {
        "css": css,
        "outcome": outcome,
        "duration": units.duration,
        "size": units.size,
        "digits": units.three_digits,
        "total": total,
        "highest": highest,
        "clock": charts.clock,
        "few": charts.ROWS,
        "slowest": slowest,
    }
    return env
