"""Run the job on a single node."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent import __version__
from agent.core import model
from agent.core.model import Node, NodeFiles
from agent.job.parts import Parts
from agent.job.stage_in import stage_in
from agent.job.states import State
from agent.launch import cgroup

# Takes the records of all nodes, by index.
OnRecords = Callable[[Mapping[int, NodeFiles]], None]


class Single:
    """A job on one node."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def work(self) -> None:
        """Stage in and run the application."""
        supervisor, parts = self.parts.supervisor, self.parts
        parts.record.fetched = stage_in(supervisor, parts.helpers)
        self.launch(supervisor.settings.limits.timeout)

    def launch(self, time_limit: float) -> None:
        """Run the application; `time_limit` is in seconds, 0 for none."""
        supervisor = self.parts.supervisor
        supervisor.node = Node(0, "", cgroup.slots(supervisor.settings), __version__)
        supervisor.enter(State.RUNNING, model.RUN)
        supervisor.verdict.decide(self.parts.run.launch(time_limit))

    def finish(self) -> None:
        """Upload what there is, and write the record."""
        finish_single(self.parts, self.parts.record.write)


def finish_single(parts: Parts, on_records: OnRecords) -> None:
    """Upload what there is, and write the record of this node, which joined no others."""
    supervisor = parts.supervisor
    supervisor.enter(State.UPLOADING, model.UPLOAD)
    parts.record.begin_page()
    parts.upload.begin()
    uploaded = parts.upload.finish()
    supervisor.enter(State.RECORDING)
    on_records({supervisor.node.index: parts.record.write_node(uploaded)})
