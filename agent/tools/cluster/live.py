"""Show a job on a terminal: a table of the nodes, and the application's last lines."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agent.core.model import PHASES
from agent.tools.cluster.states import NodeState
from agent.tools.cluster.view import View, end_of, is_notable, text_of

_NOTES, _LINES, _ROWS = 6, 12, 20
_PER_SECOND = 8
_COLOURS = {"run": "green", "release": "cyan", "upload": "cyan"}


class LiveTable(View):
    """A table that is redrawn a few times a second from the states of the nodes."""

    def __init__(self) -> None:
        self._output: deque[str] = deque(maxlen=_LINES)
        self._states: Sequence[NodeState] = ()
        self._title = ""
        self._notes: deque[str] = deque(maxlen=_NOTES)
        self._live = Live(
            get_renderable=self._draw, refresh_per_second=_PER_SECOND, redirect_stdout=False
        )

    def opened(self, states: Sequence[NodeState], description: str) -> None:
        """Begin to draw."""
        self._states, self._title = states, description
        self._live.start()

    def note(self, text: str) -> None:
        """Show a line of the cluster's own below the table."""
        self._notes.append(text)

    def record(self, node: NodeState, record: dict[str, object]) -> None:
        """Show warnings and errors below the table."""
        if is_notable(record):
            hint = f" (hint: {record['hint']})" if record.get("hint") else ""
            self._notes.append(f"{node.name}: {text_of(record)}{hint}")

    def line(self, node: NodeState, text: str, *, error: bool) -> None:
        """Show what isn't the agent's on stderr as a note, and the application's last lines."""
        if error:
            self._notes.append(f"{node.name}! {text}")
        else:
            mark = node.name if len(self._states) > 1 else ""
            self._output.append(f"{mark} | {text}".lstrip())

    def close(self) -> None:
        """Draw for the last time and release the terminal."""
        if self._live.is_started:
            self._live.stop()

    def _draw(self) -> RenderableType:
        table = Table(title=self._title, title_justify="left", title_style="dim")
        for heading in ("node", "address", "phase", "in phase", "total", "exit"):
            table.add_column(
                heading, justify="right" if heading in ("in phase", "total") else "left"
            )
        shown, left = _chosen(self._states)
        for state in shown:
            table.add_row(*_row(state))
        if left:
            table.add_row(f"{sum(left.values())} more", "", *_counts(left))
        parts: list[RenderableType] = [table, *(Text(note, style="yellow") for note in self._notes)]
        parts += [Text(line, no_wrap=True, overflow="ellipsis") for line in list(self._output)]
        return Group(*parts)


def _chosen(states: Sequence[NodeState]) -> tuple[list[NodeState], Counter[str]]:
    """Return the nodes that fit on a screen, and how many others are in which phase.

    Failed nodes come first, then those that are behind: the others wait for them.
    """
    order = ["waiting", "starting", *PHASES, "exited"]
    ranked = sorted(states, key=lambda state: (not state.code, order.index(_phase(state))))
    first = {id(state) for state in ranked[:_ROWS]}
    shown = [state for state in states if id(state) in first]
    return shown, Counter(_phase(state) for state in ranked[_ROWS:])


def _counts(left: Counter[str]) -> tuple[str, ...]:
    return ", ".join(f"{count} {phase}" for phase, count in left.items()), "", "", ""


def _phase(state: NodeState) -> str:
    before = "starting" if state.started else "waiting"
    return "exited" if state.code is not None else state.phase or before


def _row(state: NodeState) -> tuple[str | Text, ...]:
    now = time.time()
    total = f"{(state.exited or now) - state.started:.1f} s" if state.started else ""
    name = Text(state.name, style="bold" if state.name == "main" else "")
    if state.code is not None:
        end = Text(end_of(state), style="red" if state.code else "green")
        return name, state.address, Text("exited", style="dim"), "", total, end
    phase = Text(f"{_phase(state)} {state.progress}".rstrip(), style=_colour(state))
    within = f"{now - state.spans[-1].start:.1f} s" if state.spans else ""
    return name, state.address, phase, within, total, ""


def _colour(state: NodeState) -> str:
    return _COLOURS.get(state.phase, "yellow")
