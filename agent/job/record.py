"""Write this node's record, run.json, the page, the manifest."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from agent.core.errors import CANNOT_WRITE, AgentError, HelperDied, cause_of, os_reason
from agent.core.model import NodeFiles
from agent.core.result_files import RECORD
from agent.core.settings import BATCH
from agent.engine.helpers import Helper
from agent.job.helper_calls import HelperCalls
from agent.job.monitor import Monitor
from agent.job.output_dir import OutputDirectory
from agent.job.run import RunPhase
from agent.job.supervisor import Supervisor
from agent.job.upload import Upload
from agent.job.verdict import complete
from agent.launch import cgroup
from agent.report import run_json, writer

_RECORD_SECONDS, _PAGE_SECONDS = 300.0, 20.0


class Record:
    """The record of one node, and on the main node of the job.

    `fetched` describes what was fetched. `page`: report.html is made where the record is
    kept. `more` returns what else this node's record has.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        helpers: HelperCalls,
        output_dir: OutputDirectory,
        monitor: Monitor,
        run: RunPhase,
        upload: Upload,
        *,
        page: bool = True,
        more: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self.fetched: list[dict[str, Any]] = []
        self._supervisor = supervisor
        self._settings = supervisor.settings
        self._helpers = helpers
        self._output_dir = output_dir
        self._monitor = monitor
        self._run = run
        self._upload = upload
        self._page = page
        self._more = more
        self._page_helper: Helper | None = None

    def of_node(self, uploaded: dict[str, Any]) -> dict[str, Any]:
        """Return the record of this node, without its results: these may be a long list."""
        sampler, unsaved = self._monitor.sampler, self._output_dir.unsaved
        return run_json.node_record(
            self._supervisor.node,
            self._supervisor.spans,
            fetched=self.fetched,
            files=[],
            failed=[one["name"] for one in uploaded["failed"]],
            unsaved=unsaved.to_json() if unsaved else None,
            peaks=sampler.peaks() if sampler else {},
            samples=sampler.curves() if sampler else {},
            memory_limit_bytes=cgroup.memory_limit(),
            memory_total_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            processor_limit=cgroup.processors(),
            **self._more(),
        )

    def write_node(self, uploaded: dict[str, Any]) -> NodeFiles:
        """Write the record of this node; return where it and the list of its results are."""
        path = os.path.join(self._settings.runtime_dir, RECORD)
        try:
            with open(path, "w", encoding="utf-8") as file:
                json.dump({"record": self.of_node(uploaded)}, file)
        except OSError as error:
            raise _unwritten(error) from error
        return NodeFiles(path, self._upload.stored_list, not uploaded["failed"])

    def write(self, nodes: Mapping[int, NodeFiles]) -> None:
        """Write run.json and its page here and on S3, and the manifest last, if nothing is missing.

        When the record can't be written and nothing failed before, the job's code is 73. The page
        is not part of it: without one there is a warning.
        """
        outcome, log = self._supervisor.verdict.outcome, self._supervisor.log
        topology = self._settings.topology
        more = {"last_lines": log.scrub(self._run.last_lines())} if outcome.code else {}
        command = log.scrub(self._run.command)
        head = run_json.run_head(topology, outcome, command, self._run.times, **more)
        request = writer.request(
            head,
            nodes,
            self._settings.runtime_dir,
            self._beside("run.json"),
            complete=complete(nodes, topology.count),
        )
        try:
            if self._settings.results_uri is None:
                self._write_here(request)
                self._make_page(request["run"])
            else:
                self._write_there(request)
        except (AgentError, OSError) as error:
            failed = error if isinstance(error, AgentError) else _unwritten(error)
            self._supervisor.degrade(
                AgentError(failed.what, failed.cause, code=CANNOT_WRITE, hint=failed.hint)
            )

    def _beside(self, name: str) -> str:
        return self._output_dir.path_beside(name, self._upload.files)

    def _write_here(self, request: dict[str, Any]) -> None:
        """Write run.json without the helper that uploads; of several nodes in another one."""
        if self._settings.topology.count == 1:
            writer.write(request)
        else:
            self._helpers.call(
                "record", "write run.json", request, _RECORD_SECONDS, code=CANNOT_WRITE
            )

    def _write_there(self, request: dict[str, Any]) -> None:
        """Write the record, its page and the manifest on S3, in this order."""
        what, hint = "write the record", "check the network"
        wait, upload = self._supervisor.wait, self._upload
        helper = upload.helper
        upload.is_recorded = False
        if helper is None or helper.done or not helper.ask({"record": request}):
            self._write_here(request)
            cause = "the helper that uploads has exited"
            hint = "the results are on S3 without manifest.json; see the log for the cause"
            raise AgentError(what, cause, code=CANNOT_WRITE, hint=hint)
        in_time = wait(
            "run.json is written", lambda: upload.is_recorded or helper.done, _RECORD_SECONDS
        )
        # Made while the record is on its way.
        page = self._make_page(request["run"]) if upload.is_recorded else None
        helper.ask({"page": page})
        if not in_time or not wait(what, lambda: helper.done, _RECORD_SECONDS):
            raise AgentError(what, "not done in time", code=CANNOT_WRITE, hint=hint)
        helper.outcome()

    def begin_page(self) -> None:
        """Start what makes the page: it imports its libraries while the results go up."""
        settings = self._settings
        kept = settings.mode == BATCH or settings.results_uri is not None
        if self._page_helper or not (self._page and kept and settings.topology.is_main):
            return
        path = os.path.join(settings.runtime_dir, "report.html")
        try:
            self._page_helper = self._helpers.start(
                "report", {"path": path}, self._helpers.log_message
            )
        except AgentError as error:
            self._supervisor.log.warning("report_failed", cause=error.cause, hint=error.hint)

    def _make_page(self, run: str) -> str | None:
        """Return the path of the page of a record, once it is beside the results, or None."""
        helper, supervisor = self._page_helper, self._supervisor
        if helper is None:
            return None
        seconds = _PAGE_SECONDS
        if supervisor.deadline is not None:  # the manifest needs time too
            left = supervisor.deadline - supervisor.loop.clock()
            seconds = min(seconds, max(left, 0.0) / 2)
        try:
            helper.ask(run)
            if not supervisor.wait("report.html is made", lambda: helper.done, seconds):
                hint = "make it from run.json: architrave report"
                raise HelperDied(
                    "make report.html", "not done in time", code=CANNOT_WRITE, hint=hint
                )
            path = str(helper.outcome()["path"])
            if beside := self._beside("report.html"):
                with contextlib.suppress(OSError):
                    shutil.copyfile(path, beside)
        except (AgentError, OSError) as error:
            supervisor.log.warning(
                "report_failed", cause=cause_of(error), hint=getattr(error, "hint", None)
            )
            return None
        finally:
            helper.close()
        return path


def _unwritten(error: OSError) -> AgentError:
    what, hint = f"write {error.filename or 'the record'}", "check the disk: df -h"
    return AgentError(what, os_reason(error), code=CANNOT_WRITE, hint=hint)
