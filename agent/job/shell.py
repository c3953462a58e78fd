"""Open a prepared shell for debugging: environment, private files and keys in place.

If a job runs in this container, or is held, everything is there already: the shell is attached to
it and changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from agent.core.environ import environment, with_directories
from agent.core.errors import AgentError
from agent.core.settings import SHELL, job_mode
from agent.engine import passthrough
from agent.engine.process import has_terminal
from agent.job.ask import ask
from agent.job.helper_calls import HelperCalls
from agent.job.launch_command import LaunchCommand
from agent.job.stage_in import stage_in
from agent.job.supervisor import Supervisor
from agent.multinode import hostfile
from agent.staging import packages


class Shell:
    """A shell instead of the application."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._settings = supervisor.settings
        command = LaunchCommand(supervisor.settings, partial(ask, supervisor)).command
        self._command = shlex.join(command)

    def open(self, arguments: Sequence[str]) -> int:
        """Prepare what can be prepared, show the banner, run bash; return its exit code."""
        supervisor, settings = self._supervisor, self._settings
        supervisor.log.open()
        notes = self._prepare()
        # Debugging needs the same secrets that the job has.
        app_env = supervisor.app_env
        env = {**app_env, **environment()}
        env |= {k: app_env[k] for k in ("PATH", "LD_LIBRARY_PATH") if k in app_env}
        with contextlib.suppress(OSError):  # where the program writes in the job, too
            os.makedirs(settings.output_dir, exist_ok=True)
        lines = self._attached() if supervisor.directory.taken else self._prepared()
        text = "\n  ".join(["architrave: debug shell", *lines, *notes])
        os.write(2, f"{text}\n".encode())
        supervisor.directory.lend()
        bash = shutil.which("bash") or "/bin/sh"
        argv = [bash, *arguments]
        if not arguments and has_terminal():
            argv.append("-i")
        child = passthrough.start(supervisor.loop, argv, env)
        supervisor.loop.wait(lambda: not child.running)
        if has_terminal():
            passthrough.give_terminal(os.getpgrp())
        supervisor.cleanup()
        return child.code

    def _prepare(self) -> list[str]:
        """Stage in as the job does; return the error: that is when a shell is needed."""
        supervisor, settings = self._supervisor, self._settings
        try:
            supervisor.directory.take(for_shell=True)
            if settings.staging_asked:
                ssh = None
                if settings.topology.count > 1:
                    from agent.job.ssh_access import SshAccess

                    ssh = SshAccess(supervisor)
                stage_in(supervisor, HelperCalls(supervisor), ssh)
        except AgentError as error:
            if not supervisor.directory.taken:
                return [str(error), *([f"hint: {error.hint}"] if error.hint else [])]
        if supervisor.directory.taken:
            path, library_path = packages.search_paths(settings.path("/tmp/deps"))
            supervisor.app_env = with_directories(settings.app_env, path, library_path)
        return []

    def _prepared(self) -> Iterator[str]:
        yield f"the job would run: {self._command}"
        yield f"results go to:     {self._settings.output_dir}"
        yield f"start it with:     {start_line(environment())}"

    def _attached(self) -> Iterator[str]:
        """Yield what to know about the job in this container."""
        topology = self._settings.topology
        where = f"{topology.name(topology.index)}, node {topology.index} of {topology.count}"
        yield f"beside job {topology.job}, attempt {topology.attempt}" + (
            f", on {where}" if topology.count > 1 else ""
        )
        yield f"it runs:           {self._command}"
        yield f"results go to:     {self._settings.output_dir}, its output to time.log there"
        others = self._others() if topology.count > 1 and topology.is_main else []
        if others:
            from agent.job.ssh_access import config_file  # several nodes only

            yield f"other nodes:       ssh -F {config_file(self._settings)} {others[0]}"
            yield from (f"                   … {address}" for address in others[1:])

    def _others(self) -> list[str]:
        """Return the addresses of the workers, once they have joined."""
        try:
            with open(self._settings.path("/tmp/hostfile"), encoding="ascii") as file:
                return [address for address, _ in hostfile.parse(file.read())][1:]
        except (OSError, ValueError):
            return []


def start_line(env: Mapping[str, str]) -> str:
    """Return the line that starts the job of this environment, in which a shell is asked for."""
    mode = job_mode(env)
    if not mode:
        return "EXEC_TYPE=batch architrave run, or EXEC_TYPE=lambda"
    asked = env.get("EXEC_TYPE", "").lower() == SHELL
    return f"EXEC_TYPE={mode} architrave run" if asked else "architrave run"
