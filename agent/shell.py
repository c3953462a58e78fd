"""Open a prepared shell for debugging: environment, private files and keys in place."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence

from agent import passthrough
from agent.environ import environment
from agent.errors import AgentError
from agent.job import Job
from agent.process import has_terminal


class Shell(Job):
    """A shell in the place of the application."""

    def open(self, arguments: Sequence[str]) -> int:
        """Prepare what can be prepared, show the banner, run bash; return its exit code."""
        self.log.open()
        self.fetched = []
        notes = []
        try:
            self.prepare()
            if self.settings.staging_asked:
                self.stage_in()
        except AgentError as error:
            notes.append(f"{error}")
        # A shell is worth having above all when something went wrong.
        self.failure = None
        # A person debugs with the same secrets that the job has.
        env = environment() | {k: v for k, v in self.app_env().items() if k not in environment()}
        for name in ("PATH", "LD_LIBRARY_PATH"):
            if name in self.app_env():
                env[name] = self.app_env()[name]
        self._banner(notes)
        bash = shutil.which("bash") or "/bin/sh"
        words = [bash, *arguments]
        if not arguments and has_terminal():
            words.append("-i")
        child = passthrough.start(self.loop, words, env)
        self.loop.wait(lambda: not child.running)
        if has_terminal():
            passthrough.give_terminal(os.getpgrp())
        self.cleanup()
        return child.code

    def _banner(self, notes: Sequence[str]) -> None:
        lines = [
            "architrave: debug shell",
            f"  the job would run: {shlex.join(self.settings.command)}",
            f"  results go to:     {self.settings.output_dir}",
            *(f"  {note}" for note in notes),
            "  start it with:     EXEC_TYPE=batch architrave run",
        ]
        os.write(2, ("\n".join(lines) + "\n").encode())
