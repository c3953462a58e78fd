"""Tell results from the agent's own files in a node's output directory."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from agent.core.errors import CANNOT_WRITE, AgentError, os_reason
from agent.core.result_files import KEEP_HINT, NODE_LOG
from agent.core.settings import Settings
from agent.engine.console import Outlet
from agent.engine.log import Log
from agent.engine.loop import Loop
from agent.job.directories import make_directory
from agent.launch.output import Output
from agent.multinode.output_claim import release
from agent.staging import results
from agent.staging.journal import journal

_POLL_SECONDS = 0.05
# The agent's log of the application, by its visible name.
LOG = "time.log"


class OutputDirectory:
    """The output directory of one node.

    `owner` is the node that uploads it, where several share one, and `token` names the claim;
    `left_out` is what the last look for results did not take, `unsaved` what the application left
    in another working directory.
    """

    def __init__(self, settings: Settings, loop: Loop, log: Log, outlet: Outlet | None) -> None:
        self.path = settings.output_dir
        self.token = ""
        self.owner: int | None = None
        self.output: Output | None = None
        self.left_out = results.LeftOut()
        self.unsaved: results.Unsaved | None = None
        self._settings = settings
        self._loop = loop
        self._log = log
        self._outlet = outlet
        self._before: dict[str, results.Stamp] | None = None
        self._workdir = "/"
        self._known: Sequence[str] = ()
        self._began = 0.0
        self._polled = 0.0

    def poll_events(self) -> None:
        """Let the loop run from time to time during long work."""
        if self._loop.clock() - self._polled > _POLL_SECONDS:
            self._loop.poll_events()
            self._polled = self._loop.clock()

    def snapshot(self) -> None:
        """Note which files exist, right before the application may write."""
        settings = self._settings
        scratch, unpacked = settings.path("/tmp"), journal(settings.runtime_dir)
        self._before = results.snapshot(self.path, scratch, unpacked, self.poll_events)
        self._workdir = settings.launch.workdir or os.getcwd()
        # The whole system is below the root directory: only what is new is the application's.
        self._known = os.listdir("/") if self._workdir == "/" else []
        self._began = time.time()

    def open_log(self) -> Output:
        """Make the directories of the run, look at what is there, open time.log."""
        make_directory(self.path, "TMP_OUTPUT_DIR")
        if self._settings.launch.workdir:
            make_directory(self._settings.launch.workdir, "ARCHITRAVE_WORKDIR")
        self.snapshot()
        name = f"{NODE_LOG}{self._settings.topology.index}.log" if self.is_shared else LOG
        path = os.path.join(self.path, name)
        try:
            self.output = Output(self._loop, path, self._outlet or Outlet(1))
        except OSError as error:
            raise AgentError(
                f"write {path}",
                os_reason(error),
                code=CANNOT_WRITE,
                hint="set TMP_OUTPUT_DIR to a directory that this user may write",
            ) from error
        return self.output

    @property
    def is_shared(self) -> bool:
        """Return whether another node uploads this directory."""
        return self.owner not in (None, self._settings.topology.index)

    def own_paths(self) -> list[str]:
        """Return the agent's own files and directories, which are not results."""
        path, key = self._settings.path, self._settings.network.key_name
        own = ("deps", "batch", "hostfile", "hostfile-deduped")
        return [
            self._settings.runtime_dir,
            f"{self._settings.runtime_dir}.lock",
            self._settings.exit_code_file,
            *(path(f"/tmp/{name}") for name in own),
            # A directory for results may be /opt itself.
            *(path(f"/opt/{key}{end}") for end in ("", ".pub")),
            *([self.output.path] if self.output else []),
        ]

    def logs(self) -> dict[str, str]:
        """Return the name and the source of the log of this node's application, if it ran here."""
        output = self.output
        if output is None:
            return {}
        taken = output.taken and not self.is_shared
        return {os.path.basename(output.path) if taken else LOG: output.source}

    def find_results(self) -> list[str]:
        """Return the result files of this node, relative to the directory."""
        self.left_out = results.LeftOut()
        if self._before is None:
            return []  # nothing ran here, so nothing is this job's
        if self.is_shared or not os.path.isdir(self.path):
            return sorted(self.logs())
        exclude = self._settings.exclude
        found = results.results(
            *(self.path, self._before, self.own_paths(), exclude, self.left_out),
            self.poll_events,
            cores=self._settings.launch.keeps_cores,
        )
        return [*found, *self.logs()]

    def find_unsaved(self) -> None:
        """Return what the application left in a working directory that isn't uploaded."""
        top, output = os.path.realpath(self._workdir), os.path.realpath(self.path)
        if self._before is None or os.path.commonpath([top, output]) == output:
            return
        own = [*self.own_paths(), output]
        self.unsaved = results.unsaved(top, self._began, own, self._known, self.poll_events)
        if self.unsaved is not None:
            self._log.warning(
                "workdir_not_uploaded",
                directory=top,
                files=self.unsaved.files[:20],
                count=self.unsaved.count,
                hint=KEEP_HINT.format(top),
            )

    def set_token(self, token: str) -> None:
        """Note the token of this directory's claim; `close` gives the claim up."""
        self.token = token

    def last_output(self) -> str:
        """Return the end of the application's output, empty if it never ran here."""
        return self.output.tail().decode("utf-8", "replace") if self.output else ""

    def path_beside(self, name: str, found: Sequence[str]) -> str:
        """Return the path of a document beside the results, empty where the application has one."""
        path = os.path.join(self.path, name)
        own = os.path.exists(path) and name in found
        return path if os.path.isdir(self.path) and not own else ""

    def close(self) -> None:
        """Give up the claim and the log, which has been uploaded by now."""
        if self.token:
            release(self.path, self.token, self._settings.topology.index)
        if self.output is not None:
            self.output.release()
