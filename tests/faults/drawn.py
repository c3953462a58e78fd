"""What the soak does to a node, and the codes with which the others may then end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agent.tools.cluster.cluster import Cluster
from tests.faults import harness
from tests.support.s3proxy import FailingS3

# Of the application's own time, beside the harness's bound.
LONGEST = 30.0
# What is cut off so briefly that nobody is lost: cutting and mending take a second or two each.
SLOW_HEARTBEAT = 2.0


@dataclass(frozen=True)
class Draw:
    """One job and what is done to it; `moment` is in seconds after the phase has begun."""

    seed: int
    nodes: int
    main: int
    contained: bool
    launcher: str
    application: str
    code: int | None
    fault: str
    node: int
    phase: str
    moment: float
    detail: str = ""

    @property
    def others(self) -> list[int]:
        """Return the nodes that the fault is not done to."""
        return [index for index in range(self.nodes) if index != self.node]


@dataclass
class Running:
    """A cluster under a draw: what faults work on."""

    drawn: Draw
    cluster: Cluster
    proxy: FailingS3
    signalled: set[int] = field(default_factory=set)

    @property
    def node(self) -> Any:
        """Return the faulty node."""
        return self.cluster.nodes[self.drawn.node]

    @property
    def has_exited(self) -> bool:
        """Return whether that node exited before the fault was injected."""
        return self.cluster.states[self.drawn.node].code is not None


@dataclass(frozen=True)
class Action:
    """A fault, and the codes with which nodes may exit besides the application's own.

    `faulty`: the node itself is excused from all checks but that it exits; `ends`: the fault ends
    any job.
    """

    act: Callable[[Running], object]
    codes: frozenset[int] = frozenset()
    faulty: bool = False
    ends: bool = False
    several: bool = False
    backend: str = "both"

    def fits(self, nodes: int, contained: bool) -> bool:
        """Return whether the fault can be done to such a job."""
        return (nodes > 1 or not self.several) and self.backend in (
            "both",
            "containers" if contained else "processes",
        )


def wait(seconds: float) -> None:
    """Let the fault last: it is the fault's own length."""
    threading.Event().wait(seconds)


def stop_briefly(running: Running) -> None:
    running.node.freeze()
    wait(2 * harness.HEARTBEAT)
    running.node.thaw()


def cut_briefly(running: Running) -> None:
    harness.cut_briefly(running.node, 2 * SLOW_HEARTBEAT)


def stop_longer(running: Running) -> None:
    running.node.freeze()
    harness.ends(running.cluster, running.drawn.others, harness.BOUND + LONGEST)
    running.node.thaw()


def send(number: int, *, everyone: bool) -> Callable[[Running], None]:
    def act(running: Running) -> None:
        for node in running.cluster.nodes.values() if everyone else [running.node]:
            node.signal(number)

    return act


def kill_helper(running: Running) -> None:
    harness.kill_helper(running.node)


LOST = frozenset({75})
STOPPED = frozenset({143, 75})
FAULTS = {
    "none": Action(lambda running: None),
    "agent killed": Action(
        lambda r: harness.kill_agent(r.node), LOST, faulty=True, ends=True, backend="processes"
    ),
    "node killed": Action(lambda r: r.node.kill(), LOST, faulty=True, ends=True),
    "cut": Action(
        lambda r: r.node.cut(), LOST, faulty=True, ends=True, several=True, backend="containers"
    ),
    "cut briefly": Action(cut_briefly, several=True, backend="containers"),
    "stopped briefly": Action(stop_briefly),
    "stopped longer": Action(stop_longer, LOST, faulty=True, ends=True, several=True),
    "sshd killed": Action(lambda r: harness.kill_sshd(r.node), several=True, backend="processes"),
    "helper killed": Action(kill_helper, backend="processes"),
    "SIGTERM to one": Action(send(signal.SIGTERM, everyone=False), STOPPED, ends=True),
    "SIGTERM to all": Action(send(signal.SIGTERM, everyone=True), STOPPED, ends=True),
    "SIGINT to all": Action(send(signal.SIGINT, everyone=True), frozenset({130, 75}), ends=True),
    "late": Action(lambda running: None, several=True),
    "never starts": Action(lambda running: None, LOST, faulty=True, ends=True, several=True),
    "time limit": Action(lambda running: None, frozenset({124}), ends=True),
    # On one node only, whose S3 the failing one is; what it can't fetch or upload, others can.
    "s3": Action(lambda running: None, frozenset({69, 73, 75, 77}), backend="processes"),
}
