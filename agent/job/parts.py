"""Make the components of a node's job, each with those that it needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from agent.engine.console import Outlet
from agent.engine.helpers import Helper
from agent.job.ask import ask
from agent.job.helper_calls import HelperCalls, Start
from agent.job.hostfiles import Hostfiles
from agent.job.launch_command import LaunchCommand
from agent.job.monitor import Monitor
from agent.job.output_dir import OutputDirectory
from agent.job.record import Record
from agent.job.run import LIMIT_HINT, RunPhase
from agent.job.supervisor import Supervisor
from agent.job.upload import Upload


class Parts:
    """The components of every role. The defaults are a Batch job's; Lambda and doctor pass others.

    `outlet` takes the application's output; None: this process's standard output.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        start_helper: Start = Helper,
        outlet: Outlet | None = None,
        limit_hint: str = LIMIT_HINT,
        output_deadline: float = math.inf,
        grace: float | None = None,
        fresh: bool = False,
        page: bool = True,
        more: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        settings = supervisor.settings
        self.supervisor = supervisor
        self.helpers = HelperCalls(supervisor, start_helper)
        self.output_dir = OutputDirectory(settings, supervisor.loop, supervisor.log, outlet)
        self.launch_command = LaunchCommand(
            settings, partial(ask, supervisor), self.output_dir.poll_events
        )
        self.hostfiles = Hostfiles(settings)
        self.monitor = Monitor(supervisor)
        self.run = RunPhase(
            supervisor,
            self.output_dir,
            self.launch_command,
            self.hostfiles,
            self.monitor,
            limit_hint=limit_hint,
            output_deadline=output_deadline,
            grace=settings.limits.grace if grace is None else grace,
        )
        self.upload = Upload(supervisor, self.helpers, self.output_dir, fresh=fresh)
        self.record = Record(
            supervisor,
            self.helpers,
            self.output_dir,
            self.monitor,
            self.run,
            self.upload,
            page=page,
            more=more,
        )
        supervisor.workload = self.run
