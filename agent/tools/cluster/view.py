"""Show a job: plain lines if there is no terminal, and the table at the end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Sequence
from typing import TextIO

from agent.core.model import PHASES
from agent.tools.cluster.follow import Listener
from agent.tools.cluster.states import NodeState


class View(Listener):
    """The interface of a job's view; this one shows nothing."""

    def opened(self, states: Sequence[NodeState], description: str) -> None:
        """Take the nodes before they start."""

    def started(self, node: NodeState) -> None:
        """Show that a node was started."""

    def note(self, text: str) -> None:
        """Show a line of the cluster's own."""

    def close(self) -> None:
        """Stop showing."""

    def record(self, node: NodeState, record: dict[str, object]) -> None:
        """Show a record of a node's agent."""

    def line(self, node: NodeState, text: str, *, error: bool) -> None:
        """Show a line of the application."""

    def exited(self, node: NodeState) -> None:
        """Show that a node has exited."""


class Views(View):
    """Show a job in several ways."""

    def __init__(self, *views: View) -> None:
        self._views = views

    def opened(self, states: Sequence[NodeState], description: str) -> None:
        """Pass it on."""
        for view in self._views:
            view.opened(states, description)

    def started(self, node: NodeState) -> None:
        """Pass it on."""
        for view in self._views:
            view.started(node)

    def note(self, text: str) -> None:
        """Pass it on."""
        for view in self._views:
            view.note(text)

    def close(self) -> None:
        """Pass it on."""
        for view in self._views:
            view.close()

    def record(self, node: NodeState, record: dict[str, object]) -> None:
        """Pass it on."""
        for view in self._views:
            view.record(node, record)

    def line(self, node: NodeState, text: str, *, error: bool) -> None:
        """Pass it on."""
        for view in self._views:
            view.line(node, text, error=error)

    def exited(self, node: NodeState) -> None:
        """Pass it on."""
        for view in self._views:
            view.exited(node)


class Plain(View):
    """Print one line for each phase change, each error, and each line of the application."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._began = time.time()
        self._lock = threading.Lock()

    def opened(self, states: Sequence[NodeState], description: str) -> None:
        """Print what runs."""
        count = len(states)
        self.note(f"{count} node{'s' if count > 1 else ''} as {description}")

    def started(self, node: NodeState) -> None:
        """Print the node's address."""
        self._print(node.name, f"starting at {node.address}")

    def note(self, text: str) -> None:
        """Print a line of the cluster's own."""
        self._print("", text)

    def record(self, node: NodeState, record: dict[str, object]) -> None:
        """Print phase changes, warnings and errors."""
        if record.get("event") == "phase_started":
            self._print(node.name, str(record.get("phase")))
        elif is_notable(record):
            self._print(node.name, f"{record['level']}: {text_of(record)}")
            if record.get("hint"):
                self._print(node.name, f"hint: {record['hint']}")

    def line(self, node: NodeState, text: str, *, error: bool) -> None:
        """Print a line of output, marked."""
        self._print(node.name, f"{'!' if error else '|'} {text}")

    def exited(self, node: NodeState) -> None:
        """Print the exit code and its source."""
        self._print(node.name, end_of(node))

    def _print(self, name: str, text: str) -> None:
        with self._lock:
            seconds = time.time() - self._began
            print(f"{seconds:7.1f} s  {name:<10}  {text}".rstrip(), file=self._out, flush=True)


def is_notable(record: dict[str, object]) -> bool:
    """Return whether to show a record: warnings and errors, but not the exit, shown anyway."""
    return record.get("level") in ("warning", "error") and record.get("event") != "job_exited"


def text_of(record: dict[str, object]) -> str:
    """Return a record's message; one of an earlier version has its text as event."""
    return str(record.get("message") or record.get("event"))


def end_of(node: NodeState) -> str:
    """Return how a node exited."""
    source = node.exit_record.get("source")
    notes = [str(source)] if source else []
    notes += [node.fault] if node.fault else []
    notes += ["stopped by the cluster"] if node.stopped else []
    return f"exit {node.code}" + (f" ({', '.join(notes)})" if notes else "")


def summary(states: Iterable[NodeState]) -> str:
    """Return a table of the nodes with the seconds each spent in each phase."""
    rows = [["node", "address", *PHASES, "total", "exit"]]
    for node in states:
        total = f"{node.exited - node.started:.1f}" if node.exited and node.started else "-"
        code = "-" if node.code is None else str(node.code)
        seconds = [_spent(node, phase) for phase in PHASES]
        rows.append([node.name, node.address or "-", *seconds, total, code])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _spent(node: NodeState, phase: str) -> str:
    spans = [span for span in node.spans if span.phase == phase and span.end is not None]
    return f"{sum((span.end or 0) - span.start for span in spans):.1f}" if spans else "-"
