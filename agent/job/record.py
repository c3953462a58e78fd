"""Take this node's results to S3, and write down what happened."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from typing import Any

from agent.core.errors import CANNOT_WRITE, S3_UNREACHABLE, AgentError, HelperDied, os_reason
from agent.core.model import AGENT, CREDENTIALS, Node, NodeFiles, Outcome
from agent.core.result_files import RECORD
from agent.core.settings import BATCH
from agent.engine.helpers import Helper
from agent.job.upload import Uploading
from agent.launch import cgroup
from agent.report import run_json, writer

_RECORD_SECONDS, _PAGE_SECONDS = 300.0, 20.0


class Delivery(Uploading):
    """The last phase of every role."""

    node = Node(0, "", 1)
    command: tuple[str, ...] = ()
    fetched: list[dict[str, Any]]
    # Whether a page for people is made where the record is kept.
    pages = True
    _page_maker: Helper | None = None

    @property
    def times(self) -> dict[str, float]:
        """Return the application's times in seconds, as bash's `time` names them."""
        application = self.application
        child = application.child if application else None
        return {
            "real": round(application.real_seconds, 3) if application else 0.0,
            "user": round(child.user_seconds, 3) if child else 0.0,
            "sys": round(child.system_seconds, 3) if child else 0.0,
        }

    def begin_upload(self) -> None:
        """Start to make the page, and to upload this node's results."""
        self._begin_page()
        super().begin_upload()

    def stop_application(self) -> None:
        """End an application that still runs because something else has failed."""
        application = self.application
        if application is None or application.child is None or application.finished:
            return
        if application.stopped_for is None and self.failure is not None:
            application.stop(self.failure)
        try:
            self.loop.wait(lambda: application.ended)
            application.finish(self.wait_for_output)
        except Exception as error:  # what there is shall be uploaded all the same
            self.bug(error)

    def wait_for_output(self, done: Callable[[], object], deadline: float) -> bool:
        """Wait for what the application left behind; tell whether it came."""
        return self.loop.wait(done, deadline)

    def end_as_lost(self, outcome: Outcome) -> Outcome:
        """End as a node that was given up: the others have told what is there, and that it lacks.

        Nothing is uploaded any more; the log says what lies here and where.
        """
        assert self.failure is not None
        files = self.results()
        self.log.warning(
            "results_not_uploaded", directory=self.output_dir, files=files[:20], count=len(files)
        )
        return outcome if outcome.code else self.outcome_of(self.failure)

    def judged(self, outcome: Outcome, uploaded: dict[str, Any]) -> Outcome:
        """Return the outcome with what uploading says of it: 73 if nothing failed before."""
        failed = uploaded["failed"]
        if not failed or outcome.code:
            return outcome
        names = ", ".join(str(one["name"]) for one in failed[:5])
        error = AgentError(
            f"upload {uploaded['lost']} results ({names})",
            str(failed[0]["cause"]),
            # Nothing was refused or half written: the same job may do all of it later.
            code=S3_UNREACHABLE if _no_credentials_now(failed) else CANNOT_WRITE,
            hint=str(failed[0]["hint"]),
        )
        self.fail(error)
        return self.outcome_of(error)

    def record(self, uploaded: dict[str, Any]) -> dict[str, Any]:
        """Return what this node tells about itself."""
        sampler = self.sampler
        return run_json.node_record(
            self.node,
            self.spans,
            fetched=self.fetched,
            files=[],  # they are in a list of their own, which may be long
            failed=[one["name"] for one in uploaded["failed"]],
            unsaved=self.unsaved.to_json() if self.unsaved else None,
            peaks=sampler.peaks() if sampler else {},
            samples=sampler.curves() if sampler else {},
            memory_limit_bytes=cgroup.memory_limit(),
            memory_total_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            processor_limit=cgroup.processors(),
        )

    def recorded(self, uploaded: dict[str, Any]) -> NodeFiles:
        """Write this node's record down; return where it and the list of its results are."""
        path = os.path.join(self.settings.runtime_dir, RECORD)
        try:
            with open(path, "w", encoding="utf-8") as file:
                json.dump({"record": self.record(uploaded)}, file)
        except OSError as error:
            raise _unwritten(error) from error
        return NodeFiles(path, self.stored_list, not uploaded["failed"])

    def last_lines(self) -> list[str]:
        """Return the last lines of the application's output; the phase that runs it knows them."""
        return []

    def write_record(self, outcome: Outcome, nodes: dict[int, NodeFiles]) -> Outcome:
        """Write run.json and its page here and on S3, and the manifest last, if nothing is missing.

        Returns the outcome: 73 when the record could not be written and nothing failed before. The
        page is no part of it: without one there is a warning.
        """
        more = {"last_lines": self.log.scrub(self.last_lines())} if outcome.code else {}
        command = self.log.scrub(self.command)
        head = run_json.run_head(self.settings.topology, outcome, command, self.times, **more)
        asked = writer.request(head, nodes, self.settings.runtime_dir, self._beside("run.json"))
        try:
            if self.destination is None:
                self._record_here(asked)
                self._page(asked["run"])
            else:
                self._deliver(asked)
        except (AgentError, OSError) as error:
            failed = error if isinstance(error, AgentError) else _unwritten(error)
            self.fail(failed)
            if outcome.code == 0:
                return Outcome(CANNOT_WRITE, AGENT, cause=str(failed), hint=failed.hint)
        return outcome

    def _beside(self, name: str) -> str:
        """Return where a document lies beside the results, empty where the application has one."""
        path = os.path.join(self.output_dir, name)
        own = os.path.exists(path) and name in self._files
        return path if os.path.isdir(self.output_dir) and not own else ""

    def _record_here(self, asked: dict[str, Any]) -> None:
        """Write run.json without the helper that uploads; of several nodes in another one."""
        if self.settings.topology.count == 1:
            writer.write(asked)
        else:
            self.call("record", "write run.json", asked, _RECORD_SECONDS, code=CANNOT_WRITE)

    def _deliver(self, asked: dict[str, Any]) -> None:
        """Write the record, its page and the manifest on S3, in this order."""
        what, hint = "write the record", "look at the network"
        helper = self._uploader
        self._recorded = False
        if helper is None or helper.done or not helper.ask({"record": asked}):
            self._record_here(asked)
            cause = "the helper that uploads is gone"
            hint = "the results of each node are there, without a manifest"
            raise AgentError(what, cause, code=CANNOT_WRITE, hint=hint)
        in_time = self.wait(
            "write run.json", lambda: self._recorded or helper.done, _RECORD_SECONDS
        )
        # Made while the record is on its way.
        page = self._page(asked["run"]) if self._recorded else None
        helper.ask({"page": page})
        if not in_time or not self.wait(what, lambda: helper.done, _RECORD_SECONDS):
            raise AgentError(what, "not done in time", code=CANNOT_WRITE, hint=hint)
        helper.outcome()

    def _begin_page(self) -> None:
        """Start what makes the page: it imports its libraries while the results go up."""
        kept = self.settings.mode == BATCH or self.destination is not None
        if self._page_maker or not (self.pages and kept and self.settings.topology.is_main):
            return
        path = os.path.join(self.settings.runtime_dir, "report.html")
        try:
            self._page_maker = self.start_helper("report", {"path": path}, self.on_message)
        except AgentError as error:
            self.log.warning("report_failed", cause=str(error), hint=error.hint)

    def _page(self, run: str) -> str | None:
        """Return the path of the page of a record, once it lies beside the results, or None."""
        helper = self._page_maker
        if helper is None:
            return None
        seconds = _PAGE_SECONDS
        if self.last_moment is not None:  # the manifest needs time too
            seconds = min(seconds, max(self.last_moment - self.loop.clock(), 0.0) / 2)
        try:
            helper.ask(run)
            if not self.wait("make report.html", lambda: helper.done, seconds):
                hint = "architrave report makes it of run.json"
                raise HelperDied("make it", "not done in time", code=CANNOT_WRITE, hint=hint)
            path = str(helper.outcome()["path"])
            if kept := self._beside("report.html"):
                with contextlib.suppress(OSError):
                    shutil.copyfile(path, kept)
        except (AgentError, OSError) as error:
            self.log.warning("report_failed", cause=str(error), hint=getattr(error, "hint", None))
            return None
        finally:
            helper.close()
        return path


def _unwritten(error: OSError) -> AgentError:
    what, hint = f"write {error.filename or 'the record'}", "check the disk: df -h"
    return AgentError(what, os_reason(error), code=CANNOT_WRITE, hint=hint)


def _no_credentials_now(failed: list[dict[str, Any]]) -> bool:
    """Tell whether results stayed here for nothing but credentials that did not come."""
    return all(one["what"] == CREDENTIALS and one.get("code") == S3_UNREACHABLE for one in failed)
