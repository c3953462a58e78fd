"""The states of a node, the transitions, and which failure aborts which wait.

    staging -> joining -> running -> stopping -> uploading -> collecting -> recording -> done

A single node skips joining and collecting; a worker skips recording. A failure in the first three
leads to `stopping`: the application is stopped, and the existing results are uploaded. Keep
the picture in docs/explanation/architecture.md up to date: a test compares it with `NEXT`.
"""

from __future__ import annotations

from enum import Enum

from agent.core.model import FailureKind


class State(Enum):
    """What a node is doing."""

    STAGING = "staging"
    JOINING = "joining"
    RUNNING = "running"
    # What still runs here is stopped; a worker that was asked to stop waits for the main node.
    STOPPING = "stopping"
    UPLOADING = "uploading"
    # The main node collects the workers' records, a worker waits for the exit code.
    COLLECTING = "collecting"
    RECORDING = "recording"
    DONE = "done"


NEXT = {
    State.STAGING: (State.JOINING, State.RUNNING, State.STOPPING),
    State.JOINING: (State.RUNNING, State.STOPPING),
    State.RUNNING: (State.STOPPING,),
    State.STOPPING: (State.UPLOADING, State.DONE),
    State.UPLOADING: (State.COLLECTING, State.RECORDING, State.DONE),
    State.COLLECTING: (State.RECORDING, State.DONE),
    State.RECORDING: (State.DONE,),
    State.DONE: (),
}

_ANY = frozenset(FailureKind)
# Nothing can be expected from other nodes any more; what this node does by itself goes on.
_CUT_OFF = frozenset({FailureKind.MAIN_LOST, FailureKind.FROZEN})
_NONE: frozenset[FailureKind] = frozenset()

# The application has yet to run, or runs: any failure stops that.
WORKING = frozenset({State.STAGING, State.JOINING, State.RUNNING})

# Which failures abort a wait in which state.
ABORTS = {
    State.STAGING: _ANY,
    State.JOINING: _ANY,
    State.RUNNING: _ANY,
    State.STOPPING: _CUT_OFF,
    State.UPLOADING: _NONE,
    State.COLLECTING: _CUT_OFF,
    State.RECORDING: _NONE,
    State.DONE: _NONE,
}
