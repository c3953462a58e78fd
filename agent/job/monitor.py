"""Watch what the application does to its node while it runs, for the curves of the record."""

from __future__ import annotations

import os

from agent.engine.loop import Timer
from agent.job.supervisor import Supervisor
from agent.launch.sampler import SAMPLE_SECONDS, Sampler
from agent.launch.stragglers import Stragglers


class Monitor(Supervisor):
    """Takes the samples of every role; `sampler` is None until the first one."""

    sampler: Sampler | None = None
    _sampling: Timer | None = None

    def sample(self, *, by_mpirun: bool) -> None:
        """Begin to sample the job's processes on this node; psutil is imported a second later.

        `by_mpirun`: the agent itself launches with mpirun, so that whatever is left to it comes
        from ranks. An application that calls mpirun may have daemons of its own around it.
        """
        if self._sampling is not None:
            return
        start = self.loop.clock()
        stragglers = Stragglers(os.getpid())

        def one() -> None:
            try:
                if self.sampler is None:
                    self.sampler = Sampler(self.own_pids, start)
                self.sampler.sample(self.loop.clock())
                if by_mpirun and not self.stopping:  # else it has the grace period
                    self._end_stragglers(stragglers.look(self.loop.clock(), self.sampler.seen))
            except Exception as error:  # curves must not end a job
                self.stop_sampling()
                self.log.warning("sampling_failed", cause=str(error))

        self._sampling = self.loop.every(SAMPLE_SECONDS, one)

    def _end_stragglers(self, pids: set[int]) -> None:
        """End what the application has left behind on this node, so that its launcher can end."""
        if pids:
            children = self.loop.children
            left = children.end_orphans(spared=set(children.orphans()) - pids)
            self.log.info("stragglers_ended", processes=left)

    def stop_sampling(self) -> None:
        """Take no more samples."""
        if self._sampling is not None:
            self._sampling.cancel()
