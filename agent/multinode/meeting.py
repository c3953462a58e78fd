"""What both sides of a meeting share: readiness files, the watch on them, heartbeats."""

from __future__ import annotations

import os
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

from agent.core.errors import BAD_SETTINGS, NO_PERMISSION, TRY_AGAIN, AgentError, os_reason
from agent.core.model import FailureKind
from agent.core.settings import Settings
from agent.engine.helpers import Helper
from agent.engine.log import Log
from agent.engine.loop import Loop
from agent.multinode.inotify import Watch, read_regular
from agent.multinode.roster import SIZE_LIMIT, Refused

SILENT_BEATS = 5
# A worker's list of results, beside its record.
LIST_END = ".files"
READY, DONE, LEFT = "workers_ready", "master_done", "workers_done"
# The launcher `each`: main requests the launch, every node reports how its copy exited. A worker
# that gets SIGTERM reports it before it exits.
GO, ENDED, LEAVING = "launch", "workers_ended", "workers_leaving"
# Main stops the application; a worker reports when its ranks have exited; when all have, the main
# node resumes the launchers' daemons.
STOPPED = "workers_stopped"
GO_NAME, STOP_NAME = "go.json", "stop.json"
RELEASE_NAME, SIGNAL_NAME = "release.json", "signal.json"
_DIRECTORIES = (READY, DONE, LEFT, GO, ENDED, LEAVING, STOPPED)
_RECORD_LIMIT = 1 << 26


class StartHelper(Protocol):
    """How a helper process is started."""

    def __call__(
        self, task: str, request: dict[str, Any], on_message: Callable[[dict[str, Any]], None]
    ) -> Helper:
        """Start the helper for a task."""
        ...


class Meeting(ABC):
    """What both sides share: the directory of readiness files and the watch on it."""

    def __init__(
        self,
        loop: Loop,
        log: Log,
        settings: Settings,
        ssh: dict[str, Any],
        start_helper: StartHelper,
        on_failure: Callable[[AgentError, FailureKind], None],
    ) -> None:
        self._loop = loop
        self._log = log
        self._topology = settings.topology
        self._output_dir = settings.output_dir
        self._batch = settings.batch_dir
        self._heartbeat = settings.network.heartbeat
        self._silence = SILENT_BEATS * settings.network.heartbeat
        # Whether this node was frozen for so long that its peers continued without it.
        self._frozen = False
        # Port, user, directory and timeout: what every request to another node needs.
        self._ssh = ssh
        self._start_helper = start_helper
        self._on_failure = on_failure
        _empty(self._batch)
        self._make_directories()
        self._watch: Watch | None = None
        self._last_beat = loop.clock()
        self._beats = loop.every(self._heartbeat, self._tick)

    def _make_directories(self) -> bool:
        """Make those that are missing; return whether any was."""
        missing = False
        for name in _DIRECTORIES:
            path = os.path.join(self._batch, name)
            if not os.path.isdir(path):
                os.makedirs(path, 0o700)
                missing = True
        return missing

    def restore(self) -> None:
        """Restore what was removed, since other nodes need it to reach this one."""
        if self._watch is None or not self._make_directories():
            return
        self._log.warning("readiness_files_restored", directory=self._batch)
        self._loop.unwatch(self._watch.fileno())
        self._watch.close()
        self.watch()

    def watch(self) -> None:
        """Watch first, then scan, so that no file is missed."""
        directories = [os.path.join(self._batch, name) for name in _DIRECTORIES]
        self._watch = Watch(directories, self._seen)
        self._loop.watch(self._watch.fileno(), self._watch.read)
        self._watch.scan()

    def close(self) -> None:
        """Stop watching and sending heartbeats."""
        self._beats.cancel()
        if self._watch is not None:
            self._loop.unwatch(self._watch.fileno())
            self._watch.close()
            self._watch = None

    def _seen(self, directory: str, name: str) -> None:
        kind = os.path.basename(directory)
        if name.endswith(LIST_END):
            return  # for a helper, which reads it when the record beside it has arrived
        limit = SIZE_LIMIT if kind == READY else _RECORD_LIMIT
        try:
            data = read_regular(os.path.join(directory, name), limit)
            self._take(kind, name, data)
        except FileNotFoundError:
            pass
        except (Refused, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            self._log.warning("readiness_file_refused", file=f"{kind}/{name}", cause=str(error))

    def _tick(self) -> None:
        """Send a heartbeat, unless this process was frozen for longer than its peers wait.

        What arrived meanwhile was handled before: the loop serves descriptors first.
        """
        now = self._loop.clock()
        gap, self._last_beat = now - self._last_beat, now
        if self._frozen:
            return
        if gap > self._silence and self._is_awaited:
            self._frozen = True
            self._on_failure(
                AgentError(
                    f"this node was frozen for {gap:.1f} s",
                    f"peers declare a node lost after {self._silence:g} s",
                    code=TRY_AGAIN,
                    hint="check whether the container was paused, or its machine overloaded",
                    event="node_frozen",
                ),
                FailureKind.FROZEN,
            )
        else:
            try:
                self.restore()
            except OSError as error:
                self._log.warning("readiness_files_not_restored", cause=os_reason(error))
            self._beat()

    @property
    @abstractmethod
    def _is_awaited(self) -> bool:
        """Return whether other nodes expect this node's heartbeats."""

    @abstractmethod
    def _take(self, kind: str, name: str, data: bytes) -> None:
        """Handle what another node has written."""

    @abstractmethod
    def _beat(self) -> None:
        """Send a heartbeat, and check the others'."""


def _empty(batch: str) -> None:
    """Make the directory of readiness files, with nothing in it from an earlier attempt."""
    try:
        status = os.lstat(batch)
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(batch)
        elif status.st_uid != os.geteuid():
            raise AgentError(
                f"use {batch}",
                "owned by another user",
                code=NO_PERMISSION,
                hint="run one job in a container",
            )
        else:
            shutil.rmtree(batch)
    except FileNotFoundError:
        pass
    try:
        os.makedirs(batch, mode=0o700)
    except OSError as error:
        raise AgentError(
            f"make {batch}", os_reason(error), code=BAD_SETTINGS, hint="make /tmp writable"
        ) from error
