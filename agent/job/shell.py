"""Open a prepared shell for debugging: environment, private files and keys in place.

Beside a job that runs in this container, or is held, everything is there already: the shell is
attached to it and changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence

from agent.core.environ import environment
from agent.core.errors import AgentError
from agent.core.settings import BATCH, LAMBDA, SHELL, mode_of
from agent.engine import passthrough
from agent.engine.process import has_terminal
from agent.job.single import Job
from agent.multinode import hostfile
from agent.staging import packages


class Shell(Job):
    """A shell in the place of the application."""

    def open(self, arguments: Sequence[str]) -> int:
        """Prepare what can be prepared, show the banner, run bash; return its exit code."""
        self.log.open()
        self.fetched = []
        notes = []
        try:
            self._directory.take(for_shell=True)
            if self.settings.staging_asked:
                self.stage_in()
        except AgentError as error:
            if self.is_only_agent:
                notes += [str(error), *([f"hint: {error.hint}"] if error.hint else [])]
        if not self.is_only_agent:
            self._path, self._library_path = packages.search_paths(self.settings.path("/tmp/deps"))
        # A shell is worth having above all when something went wrong.
        self.failure = None
        # A person debugs with the same secrets that the job has.
        env = environment() | {k: v for k, v in self.app_env().items() if k not in environment()}
        for name in ("PATH", "LD_LIBRARY_PATH"):
            if name in self.app_env():
                env[name] = self.app_env()[name]
        with contextlib.suppress(OSError):  # where the program would write by hand, as in the job
            os.makedirs(self.settings.output_dir, exist_ok=True)
        self._banner(notes)
        self._directory.lend()
        bash = shutil.which("bash") or "/bin/sh"
        argv = [bash, *arguments]
        if not arguments and has_terminal():
            argv.append("-i")
        child = passthrough.start(self.loop, argv, env)
        self.loop.wait(lambda: not child.running)
        if has_terminal():
            passthrough.give_terminal(os.getpgrp())
        self.cleanup()
        return child.code

    def _banner(self, notes: Sequence[str]) -> None:
        said = self._prepared() if self.is_only_agent else self._attached()
        lines = ["architrave: debug shell", *said, *notes]
        os.write(2, ("\n  ".join(lines) + "\n").encode())

    def _prepared(self) -> Iterator[str]:
        yield f"the job would run: {shlex.join(self.command_here)}"
        yield f"results go to:     {self.settings.output_dir}"
        yield f"start it with:     {start_line(environment())}"

    def _attached(self) -> Iterator[str]:
        """Yield what a person wants to know of the job that is here."""
        topology = self.settings.topology
        where = f"{topology.name(topology.index)}, node {topology.index} of {topology.count}"
        yield f"beside job {topology.job}, attempt {topology.attempt}" + (
            f", on {where}" if topology.count > 1 else ""
        )
        yield f"it runs:           {shlex.join(self.command_here)}"
        yield f"results go to:     {self.settings.output_dir}, its output to time.log there"
        others = self._others() if topology.count > 1 and topology.is_main else []
        if others:
            yield f"other nodes:       ssh -F {self._ssh_directory}/ssh_config {others[0]}"
            yield from (f"                   … {address}" for address in others[1:])

    def _others(self) -> list[str]:
        """Return the addresses of the workers, once they have joined."""
        try:
            with open(self.settings.path("/tmp/hostfile"), encoding="ascii") as file:
                return [address for address, _ in hostfile.parse(file.read())][1:]
        except (OSError, ValueError):
            return []


def job_mode(env: Mapping[str, str]) -> str:
    """Return the mode of the job that a shell is for, empty if it is not known."""
    given = env.get("EXEC_TYPE", "").lower()
    if given in (LAMBDA, BATCH):
        return given
    try:
        return mode_of({**env, "EXEC_TYPE": ""})
    except AgentError:
        return ""


def start_line(env: Mapping[str, str]) -> str:
    """Return the line that starts the job of this environment, in which a shell is asked for."""
    mode = job_mode(env)
    if not mode:
        return "EXEC_TYPE=batch architrave run, or EXEC_TYPE=lambda"
    asked = env.get("EXEC_TYPE", "").lower() == SHELL
    return f"EXEC_TYPE={mode} architrave run" if asked else "architrave run"
