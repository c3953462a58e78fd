"""Run this job's own sshd: a child in the foreground, with its own configuration."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
from collections.abc import Callable, Mapping
from functools import partial

from agent.core.errors import NO_PERMISSION, NOT_FOUND, OS_ERROR, AgentError, cause_of
from agent.engine.log import Log
from agent.engine.loop import Loop
from agent.engine.pipe import Lines
from agent.engine.process import Child

_RESTARTS, _BACKOFF = 5, 0.2
_MAX_LINE = 4096
PRIVSEP = "/run/sshd"


def find_sshd() -> str:
    """Return sshd's path, which it must know itself; raise AgentError (71) when there is none."""
    path = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin")
    if path is None:
        raise AgentError(
            "start sshd",
            "not installed",
            code=OS_ERROR,
            hint="build the image with --target batch, or apt-get install openssh-server",
        )
    return path


def find_ssh(path: str) -> str:
    """Return the program ssh; raise AgentError (127) when it is not on `path`."""
    program = shutil.which("ssh", path=path)
    if program is None:
        hint = "apt-get install openssh-client"
        raise AgentError("reach the other nodes", "no ssh on PATH", code=NOT_FOUND, hint=hint)
    return program


def user_name() -> str:
    """Return the user as which nodes log in; raise AgentError (77) if the image lacks it."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError as error:
        cause = f"user id {os.geteuid()} has no passwd entry"
        hint = "run several nodes as a user with a passwd entry"
        raise AgentError("start sshd", cause, code=NO_PERMISSION, hint=hint) from error


class Sshd:
    """The SSH server of one node; it is restarted when it dies, a limited number of times."""

    def __init__(
        self,
        loop: Loop,
        log: Log,
        config: str,
        env: Mapping[str, str],
        own_pids: set[int],
        on_failure: Callable[[AgentError], None],
    ) -> None:
        self.listening = False
        self._on_failure = on_failure
        self.child: Child | None = None
        self._loop = loop
        self._log = log
        self._config = config
        self._env = env
        self._own_pids = own_pids
        self._lines = Lines(_MAX_LINE)
        self._last = ""
        self._pipes: set[int] = set()
        self._starts = 0
        self._closing = False
        self._program = find_sshd()
        if os.geteuid() == 0:
            os.makedirs(PRIVSEP, mode=0o755, exist_ok=True)
        self._start()

    def _start(self) -> None:
        self._starts += 1
        pipe, stderr = os.pipe()
        os.set_blocking(pipe, False)
        null = -1
        try:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            self.child = self._loop.children.spawn(
                # sshd must know its own path: it executes itself for every connection.
                [self._program, "-D", "-e", "-f", self._config],
                self._env,
                cwd="/",
                stdin=null,
                stdout=null,
                stderr=stderr,
            )
        except BaseException:
            os.close(pipe)
            raise
        finally:
            os.close(stderr)
            if null >= 0:
                os.close(null)
        # Sessions keep the pipe of the sshd that began them, so there may be several.
        self._own_pids.add(self.child.pid)
        self._pipes.add(pipe)
        self._loop.watch(pipe, partial(self._on_output, pipe))

    def _on_output(self, pipe: int) -> None:
        try:
            data = os.read(pipe, 1 << 14)
        except BlockingIOError:
            return
        if not data:
            self._close(pipe)
            return
        for line in self._lines.feed(data):
            self._last = line.decode("utf-8", "replace").strip()
            self.listening = self.listening or self._last.startswith("Server listening")
            self._log.debug("sshd_output", text=self._last)

    def child_exited(self) -> None:
        """Restart sshd, or give up. Called when the child has exited."""
        if self._closing or self.child is None:
            return
        code, killed, self.child = self.child.code, self.child.signal, None
        for pipe in tuple(self._pipes):
            self._on_output(pipe)
        # Restarted if it was killed at any time, or exited after it had listened.
        if self._starts > _RESTARTS or not (self.listening or killed):
            self._give_up(self._last or f"exited with {code}")
            return
        self._log.warning("sshd_exited", code=code, start=self._starts + 1)
        self._loop.call_at(
            self._loop.clock() + _BACKOFF * 2**self._starts,
            self._start_again,
        )

    def _start_again(self) -> None:
        if self._closing:
            return
        try:
            self._start()
        except (AgentError, OSError) as error:
            if self._starts > _RESTARTS:
                self._give_up(cause_of(error))
                return
            self._log.warning("sshd_not_restarted", cause=cause_of(error))
            self._loop.call_at(self._loop.clock() + _BACKOFF * 2**self._starts, self._start_again)

    def _give_up(self, cause: str) -> None:
        hint = "set ARCHITRAVE_SSH_PORT to a free port, or see the log with level debug"
        self._on_failure(AgentError("start sshd", cause, code=OS_ERROR, hint=hint))

    def close(self) -> None:
        """Stop sshd; its sessions end, with the processes in them."""
        self._closing = True
        if self.child is not None and self.child.running:
            self.child.kill_group(signal.SIGTERM)
        for pipe in tuple(self._pipes):
            self._close(pipe)

    def _close(self, pipe: int) -> None:
        self._loop.unwatch(pipe)
        os.close(pipe)
        self._pipes.discard(pipe)
