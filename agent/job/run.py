"""Run the application on this node: the run phase of every role."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from functools import partial

from agent.core.errors import AgentError
from agent.core.model import AGENT, Outcome
from agent.engine.process import Child
from agent.job import launch_warnings
from agent.job.ask import ask
from agent.job.failure_cause import explain_failure
from agent.job.hostfiles import Hostfiles
from agent.job.launch_command import LaunchCommand
from agent.job.monitor import Monitor
from agent.job.output_dir import LOG, OutputDirectory
from agent.job.supervisor import Supervisor
from agent.launch import ulimits
from agent.launch.application import Application, resolve
from agent.launch.stdin import stdin_file

_LOG_SECONDS = 0.2
_LAST_LINES = 50
LIMIT_HINT = "raise ARCHITRAVE_TIMEOUT_SECONDS"


class Peers:
    """Hooks for the application's ranks on other nodes; these do nothing (single node)."""

    def started(self) -> None:
        """Act on the start here; other nodes' messages may have arrived before it."""

    def stop(self, reason: AgentError, number: int, grace: float) -> None:
        """Stop the application there too; it is about to be stopped here."""

    def forward(self, number: int) -> None:
        """Pass on a signal that doesn't stop the job."""

    def computing(self) -> bool:
        """Return whether a stopped application still computes there."""
        return False

    def release_launchers(self) -> None:
        """Let the launchers there continue: no rank of the stopped application runs any more."""


class RunPhase:
    """The application of one node. `command` is what was started, or will be.

    `limit_hint` says how to get more time; after `output_deadline` the output of processes that
    outlive the application is not waited for; `grace` is in seconds.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        output_dir: OutputDirectory,
        launch_command: LaunchCommand,
        hostfiles: Hostfiles,
        monitor: Monitor,
        *,
        limit_hint: str,
        output_deadline: float,
        grace: float,
    ) -> None:
        self.command = supervisor.settings.command
        self.application: Application | None = None
        self.peers = Peers()
        # Returns the command that reaches other nodes.
        self.ssh: Callable[[], tuple[str, ...]] = tuple
        self._supervisor = supervisor
        self._settings = supervisor.settings
        self._output_dir = output_dir
        self._launch_command = launch_command
        self._hostfiles = hostfiles
        self._monitor = monitor
        self._limit_hint = limit_hint
        self._output_deadline = output_deadline
        self._grace = grace
        supervisor.processes.on_child.append(self._child_exited)

    def launch(self, time_limit: float) -> Outcome:
        """Run the application here and return its outcome; `time_limit` in seconds, 0 for none."""
        supervisor, log = self._supervisor, self._supervisor.log
        loop, env = supervisor.loop, dict(supervisor.app_env)
        choice = self._launch_command
        path = env.get("PATH", os.defpath)
        program = resolve(choice.command[0], path, self._settings.path("/opt"))
        self.command = (program, *choice.command[1:])
        launcher = choice.launcher(env)
        launch_warnings.warn(supervisor, choice, env)
        argv = choice.argv(self.command, env, supervisor.node, self.ssh)
        if launcher == "mpirun":
            self.command = tuple(argv)
        if launcher == "each":
            env |= choice.each_env(supervisor.node)
            if self._settings.topology.count == 1:
                self._hostfiles.write(supervisor.node, [])
        output = self._output_dir.open_log()
        application = Application(
            loop,
            log,
            output,
            grace=self._grace,
            own=supervisor.processes.pids,
            on_stop=self.peers.stop,
            elsewhere=self.peers.computing,
            on_release=self.peers.release_launchers,
        )
        self.application = application
        log.info(
            "application_starting",
            command=argv,
            launcher=launcher,
            reason=choice.chosen.why if choice.chosen else None,
            output_dir=self._output_dir.path,
            stdin=self._settings.launch.stdin or None,
        )
        try:
            self._start(application, argv, env, time_limit)
        except BaseException:
            output.close()
            raise
        if supervisor.verdict.failure is not None:
            application.stop(supervisor.verdict.failure)
        self.peers.started()
        # A short application must not wait to be reaped while structlog is imported.
        loop.call_at(loop.clock() + _LOG_SECONDS, log.open)
        self._monitor.start(by_mpirun=launcher == "mpirun")
        loop.wait(lambda: application.exited)
        self._monitor.stop()
        application.finish(self._wait_for_output)
        if output.taken:
            log.warning(
                "time_log_renamed",
                its=os.path.join(self._output_dir.path, LOG),
                agents=output.path,
                hint=f"look for the agent's {LOG} under its second name",
            )
        outcome = self._outcome(application, program, env, by_mpirun=launcher == "mpirun")
        log.info(
            "application_exited",
            code=outcome.code,
            real_seconds=round(application.real_seconds, 3),
            out_of_memory=outcome.out_of_memory,
        )
        return outcome

    def _start(
        self, application: Application, argv: list[str], env: dict[str, str], time_limit: float
    ) -> None:
        """Start the application with its own standard input and limits."""
        launch = self._settings.launch
        application.start(
            *(argv, env, launch.workdir, time_limit, self._limit_hint),
            stdin=stdin_file(launch.stdin, launch.workdir or os.getcwd()),
            rlimits=ulimits.rlimits(launch.ulimits),
        )

    def _outcome(
        self, application: Application, program: str, env: dict[str, str], *, by_mpirun: bool
    ) -> Outcome:
        outcome = application.outcome(launcher_aborts=by_mpirun)
        if not outcome.code or outcome.source == AGENT or self._supervisor.verdict.failure:
            return outcome
        launch_warnings.warn_of_arguments(self._supervisor, self._launch_command)
        return explain_failure(
            outcome,
            program,
            env,
            self._output_dir.last_output(),
            by_mpirun=by_mpirun,
            nodes=self._settings.topology.count,
            stack=ulimits.stack(self._settings.launch.ulimits),
            ask=partial(ask, self._supervisor),
        )

    def _wait_for_output(self, done: Callable[[], object], deadline: float) -> bool:
        return self._supervisor.loop.wait(done, min(deadline, self._output_deadline))

    def _child_exited(self, child: Child) -> None:
        if self.application is not None:
            self.application.child_exited(child)

    @property
    def times(self) -> dict[str, float]:
        """Return the application's times in seconds, under the names of bash's `time`."""
        application = self.application
        child = application.child if application else None
        return {
            "real": round(application.real_seconds, 3) if application else 0.0,
            "user": round(child.user_seconds, 3) if child else 0.0,
            "sys": round(child.system_seconds, 3) if child else 0.0,
        }

    def last_lines(self) -> list[str]:
        """Return the last 50 lines of the application's output, none if it never ran here."""
        return self._output_dir.last_output().splitlines()[-_LAST_LINES:]

    # -- the workload of this node, as the supervisor sees it

    @property
    def stopping(self) -> bool:
        """Return whether the application is being stopped, or was."""
        return self.application is not None and self.application.stopped_for is not None

    def stop(
        self, reason: AgentError, number: int = signal.SIGTERM, max_grace: float = math.inf
    ) -> None:
        """Stop the application; called again, kill it now. `max_grace` is in seconds."""
        if self.application is not None:
            self.application.stop(reason, number, max_grace)

    def forward(self, number: int) -> None:
        """Pass on a signal that doesn't stop the job."""
        if self.application is not None:
            self.application.forward(number)
            if not self.stopping:
                self.peers.forward(number)

    def finish(self) -> None:
        """Stop an application that still runs because something else has failed."""
        application, supervisor = self.application, self._supervisor
        self._monitor.stop()
        if application is None or application.child is None or application.finished:
            return
        if application.stopped_for is None and supervisor.verdict.failure is not None:
            application.stop(supervisor.verdict.failure)
        try:
            supervisor.loop.wait(lambda: application.exited)
            application.finish(self._wait_for_output)
        except Exception as error:  # the existing results must be uploaded nevertheless
            supervisor.degrade(supervisor.bug(error))
