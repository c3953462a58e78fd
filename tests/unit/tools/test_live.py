"""The live view: which nodes are drawn, and the origin of lines."""

import io
import json
import re

import pytest
from rich.console import Console

from agent.tools.cluster.live import LiveTable
from agent.tools.cluster.states import NodeState


@pytest.fixture
def drawn(tmp_path):
    """Return what makes a view of nodes in these phases, and what draws it."""

    def make(phases):
        states = []
        for index, phase in enumerate(phases):
            state = NodeState(index, f"worker {index}" if index else "main", tmp_path, started=1.0)
            if phase:
                state.take({"event": "phase_started", "phase": phase})
            states.append(state)
        view = LiveTable()
        view._states = states
        console = Console(file=io.StringIO(), width=100)

        def draw():
            console.print(view._draw())
            return console.file.getvalue()

        return view, states, draw

    return make


def test_few_nodes_are_all_there(drawn):
    text = drawn(["run", "join"])[2]()
    assert "main" in text and "worker 1" in text
    assert not re.search(r"\d+ (run|join)", text)


def test_of_many_nodes_those_that_others_wait_for(drawn):
    phases = ["run"] * 64
    phases[40], phases[50] = "join", ""
    _, states, draw = drawn(phases)
    states[60].code = 75
    text = draw()
    assert "worker 40" in text and "worker 50" in text and "worker 60" in text
    assert len(re.findall(r"\b44\b", text)) == 2 and "44 run" in text
    assert len(text.splitlines()) < 30


def test_lines_are_marked_by_node(drawn):
    view, states, draw = drawn(["run", "run"])
    view.line(states[1], "hello", error=False)
    view.line(states[0], "oops", error=True)
    text = draw()
    assert "worker 1 | hello" in text and "main! oops" in text


def test_a_progress_is_shown(drawn):
    _, states, draw = drawn(["fetch"])
    states[0].take(json.loads('{"event": "progress", "what": "private.7z", "percent": 40}'))
    assert re.search(r"private\.7z 40\b", draw())
