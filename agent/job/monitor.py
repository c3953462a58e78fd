"""Sample the job's processes on this node while the application runs, for the record's curves."""

from __future__ import annotations

import os

from agent.engine.loop import Timer
from agent.job.supervisor import Supervisor
from agent.launch.sampler import SAMPLE_SECONDS, Sampler
from agent.launch.stragglers import Stragglers


class Monitor:
    """The samples of one node; `sampler` is None until the first one."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.sampler: Sampler | None = None
        self._supervisor = supervisor
        self._timer: Timer | None = None

    def start(self, *, by_mpirun: bool) -> None:
        """Begin to sample; psutil is imported a second later.

        `by_mpirun`: this agent runs mpirun or its daemon, so orphans on this node come from ranks
        and may be killed. An application that calls mpirun itself may need its daemons.
        """
        if self._timer is not None:
            return
        supervisor = self._supervisor
        start = supervisor.loop.clock()
        stragglers = Stragglers(os.getpid())

        def sample() -> None:
            now = supervisor.loop.clock()
            try:
                if self.sampler is None:
                    self.sampler = Sampler(supervisor.processes.pids, start)
                self.sampler.sample(now)
                # Stragglers of a stopped application keep their grace period.
                if by_mpirun and not supervisor.workload.stopping:
                    self._end(stragglers.look(now, self.sampler.seen))
            except Exception as error:  # curves must not make a job fail
                self.stop()
                supervisor.log.warning("sampling_failed", cause=str(error))

        self._timer = supervisor.loop.every(SAMPLE_SECONDS, sample)

    def _end(self, pids: set[int]) -> None:
        """Kill what the application has left behind on this node, so that its launcher can exit."""
        if pids:
            children = self._supervisor.loop.children
            left = children.kill_orphans(spared=set(children.orphans()) - pids)
            self._supervisor.log.info("stragglers_ended", processes=left)

    def stop(self) -> None:
        """Take no more samples."""
        if self._timer is not None:
            self._timer.cancel()
