"""Find what the application has left behind while its launcher still waits for it.

mpirun and its daemons wait until no process has the output of a rank open: forever, if a
rank has started a process that stays (a licence server's helper, for example). Without a launcher
the agent kills such processes when the application has exited; here, when no rank is left on
this node.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

LAUNCHERS = {"mpirun", "orterun", "prterun", "orted", "prted"}
# From the last rank's exit: longer than a launcher takes to exit by itself.
LEFT_SECONDS = 5.0


class Stragglers:
    """Watches the ranks of one node; `agent` is the pid to which orphans are reparented."""

    def __init__(self, agent: int) -> None:
        self._agent = agent
        self._orphaned_since: float | None = None

    def look(self, now: float, processes: list[psutil.Process]) -> set[int]:
        """Return the processes to kill, usually none; `processes` are all of the job's."""
        parents: dict[int, int] = {}
        names: dict[int, str] = {}
        for process in processes:
            with contextlib.suppress(Exception):  # it has exited meanwhile
                parents[process.pid], names[process.pid] = process.ppid(), process.name()
        launchers = {pid for pid, name in names.items() if name in LAUNCHERS}
        ranks = [
            pid
            for pid, parent in parents.items()
            if parent in launchers and pid not in launchers and names[pid] != "ssh"
        ]
        orphans = {
            pid
            for pid, parent in parents.items()
            if parent == self._agent and pid not in launchers and not names[pid].startswith("sshd")
        }
        if ranks or not (launchers and orphans):
            self._orphaned_since = None
            return set()
        if self._orphaned_since is None:
            self._orphaned_since = now
        return orphans if now - self._orphaned_since >= LEFT_SECONDS else set()
