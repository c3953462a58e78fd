"""Show one run, or two side by side, as text for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from agent.core import units
from agent.report.advice import advice
from agent.report.charts import MEASURES
from agent.report.page import rows_of, slowest
from agent.report.reader import Machine, Run, outcome

WIDTH = 80
_BAR, _NODES, _FILES, _LINES = 48, 12, 10, 20
_LETTERS = {"fetch": "f", "unpack": "u", "join": "j", "run": "#", "release": "r", "upload": "^"}


def text(run: Run) -> str:
    """Return the page of a run as text, without the curves."""
    return _joined(
        _verdict(run),
        _log(run),
        _titled("What would help", (line for one in advice(run) for line in _wrapped(one))),
        _titled("Phases, in seconds", _phases(run)),
        _titled("Timeline", _timeline(run)),
        _titled("Peaks", _peaks(run)),
        _titled("Command", _folded(run.command)),
        _titled("Files", _files(run)),
    )


def comparison(first: Run, second: Run) -> str:
    """Return the figures of two runs side by side, and how each went."""
    rows = [(row.name, row.first, row.second, row.change) for row in rows_of(first, second)]
    return _joined(
        _table([("", "first", "second", "change"), *rows]),
        _titled("First", [*_verdict(first), *_folded(first.command)]),
        _titled("Second", [*_verdict(second), *_folded(second.command)]),
    )


def _joined(*parts: Iterable[str]) -> str:
    blocks = ["\n".join(part) for part in parts]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _titled(title: str, lines: Iterable[str]) -> list[str]:
    found = list(lines)
    return [title, *(f"  {line}" if line else "" for line in found)] if found else []


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, WIDTH - 2, break_on_hyphens=False) or [""]


def _folded(command: str) -> list[str]:
    """Return a command in lines that fit; joined again they give the command."""
    exact = textwrap.TextWrapper(
        width=WIDTH - 2, expand_tabs=False, replace_whitespace=False, drop_whitespace=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return [part for line in command.split("\n") for part in exact.wrap(line) or [""]]


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows as columns, the first one to the left and all others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    # Only a name or a cause may be too long, never a figure.
    widths[0] = min(widths[0], WIDTH - 2 - sum(width + 2 for width in widths[1:]))
    for row in rows:
        first, *others = (
            _cut(cell, width).ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join((first, *others)).rstrip()


def _verdict(run: Run) -> Iterator[str]:
    yield from _wrapped(outcome(run))
    if run.code and run.cause and run.cause not in outcome(run):
        yield from _wrapped(f"cause: {run.cause}")
    if run.code and run.hint:
        yield from _wrapped(f"hint: {run.hint}")
    for node in run.nodes:
        if node.unsaved:
            yield from _wrapped(f"not uploaded from {node.name}: {node.unsaved}")
    if run.missing:
        yield from _wrapped(f"no record was received from {', '.join(run.missing)}")
    began = f", began {run.began:%Y-%m-%d %H:%M:%S} UTC" if run.began else ""
    yield from _wrapped(f"job {run.job}, attempt {run.attempt}{began}")


def _log(run: Run) -> list[str]:
    if not run.code or not run.last_lines:
        return []
    lines = run.last_lines[-_LINES:]
    return [
        "The application's last lines",
        *(_cut(f"  | {line.expandtabs()}", WIDTH) for line in lines),
    ]


def _phases(run: Run) -> Iterator[str]:
    if not run.phases:
        return
    rows: list[tuple[str, ...]] = [("", "fastest", "median", "slowest", "node")]
    for phase, taken in run.phases.items():
        middle = taken[len(taken) // 2]
        seconds = (f"{one.seconds:.2f}" for one in (taken[0], middle, taken[-1]))
        rows.append((f"{_LETTERS[phase]} {phase}", *seconds, taken[-1].node.name))
    yield from _table(rows)


def _timeline(run: Run) -> Iterator[str]:
    """Yield a line for each node; of many the main one and those that were ready last."""
    shown = run.nodes
    if len(shown) > _NODES:
        last = [node for node, _ in slowest(run) if node.index != run.main]
        shown = [node for node in [run.main_node, *last] if node is not None]
        yield f"main and the last of {len(run.nodes)} nodes to be ready"
    width = max((len(node.name) for node in shown), default=0)
    for node in shown:
        yield f"{node.name.ljust(width)} |{_bar(run, node)}|"
    if shown:
        end = units.duration(run.seconds)
        yield f"{' ' * width}  0{end.rjust(_BAR - 1)}"


def _bar(run: Run, node: Machine) -> str:
    """Return a node's phases as letters, each for the phase in the middle of its time."""
    step = run.seconds / _BAR
    moments = [(k + 0.5) * step for k in range(_BAR)]
    return "".join(
        next((_LETTERS[s.phase] for s in node.stages if s.start <= at < s.end), " ")
        for at in moments
    )


def _peaks(run: Run) -> Iterator[str]:
    for measure in MEASURES:
        nodes = [node for node in run.nodes if measure.name in node.peaks]
        if not nodes:
            continue
        node = max(nodes, key=lambda one: one.peaks[measure.name])
        limit = node.limits.get(measure.name)
        of_limit = f" of {measure.text(limit)}" if limit else ""
        peak = f"{measure.text(node.peaks[measure.name])}{of_limit}"
        yield f"{measure.title.ljust(18)} {peak} ({node.name})"


def _files(run: Run) -> Iterator[str]:
    files = run.files
    if not files:
        return
    yield from _table([(name, units.size(size)) for name, size in files[:_FILES]])
    if len(files) > _FILES:
        rest = units.size(sum(size for _, size in files[_FILES:]))
        yield f"and {len(files) - _FILES} more with {rest}"
