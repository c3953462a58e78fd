"""Take this node's results to S3, and write down what happened."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from agent import cgroup, report
from agent.errors import CANNOT_WRITE, S3_UNREACHABLE, AgentError, HelperDied
from agent.helpers import Helper
from agent.model import AGENT, CREDENTIALS, Node, Outcome
from agent.settings import BATCH, S3Place, Settings
from agent.uploading import Uploading

_RECORD_SECONDS, _PAGE_SECONDS = 60.0, 20.0

PROBE = ".write-probe"


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

    def leave_alone(self, outcome: Outcome) -> Outcome:
        """End as a node that was given up: the others have told what is there, and that it lacks.

        Nothing is uploaded any more; the log says what lies here and where.
        """
        assert self.failure is not None
        files = self.results()
        self.log.warning(
            "results left alone", directory=self.output_dir, files=files[:20], count=len(files)
        )
        return outcome if outcome.code else self.outcome_of(self.failure)

    def judged(self, outcome: Outcome, uploaded: dict[str, Any]) -> Outcome:
        """Return the outcome with what uploading says of it: 73 if nothing failed before."""
        failed = uploaded["failed"]
        if not failed or outcome.code:
            return outcome
        names = ", ".join(str(one["name"]) for one in failed[:5])
        error = AgentError(
            f"upload {len(failed)} results ({names})",
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
        return report.node_record(
            self.node,
            self.spans,
            fetched=self.fetched,
            files=uploaded["files"],
            failed=[one["name"] for one in uploaded["failed"]],
            unsaved=self.unsaved.to_json() if self.unsaved else None,
            peaks=sampler.peaks() if sampler else {},
            samples=sampler.curves() if sampler else {},
            memory_limit_bytes=cgroup.memory_limit(),
            memory_total_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            processor_limit=cgroup.processors(),
        )

    def last_lines(self) -> list[str]:
        """Return the last lines of the application's output; the phase that runs it knows them."""
        return []

    def write_record(self, outcome: Outcome, nodes: dict[int, dict[str, Any]]) -> Outcome:
        """Write run.json and its page here and on S3, and the manifest last, if nothing is missing.

        Returns the outcome: 73 when the record could not be written and nothing failed before. The
        page is no part of it: without one there is a warning.
        """
        topology = self.settings.topology
        more = {"last_lines": self.log.scrub(self.last_lines())} if outcome.code else {}
        run = report.run_json(
            topology, outcome, self.log.scrub(self.command), nodes.values(), self.times, **more
        )
        self._keep("run.json", run)
        if self.place is None:
            self._page(run)
            return outcome
        manifest = []
        complete = len(nodes) == topology.count and not any(n.get("failed") for n in nodes.values())
        if complete:
            parts = {index: node["files"] for index, node in nodes.items()}
            manifest.append(("manifest.json", report.manifest_json(topology, parts)))
        try:
            self._deliver(run, manifest)
        except AgentError as error:
            self.fail(error)
            if outcome.code == 0:
                return Outcome(CANNOT_WRITE, AGENT, cause=str(error), hint=error.hint)
        return outcome

    def _keep(self, name: str, text: str) -> None:
        """Write a document beside the results; the application's own of this name stays."""
        path = os.path.join(self.output_dir, name)
        with contextlib.suppress(OSError):
            if os.path.isdir(self.output_dir) and not (
                os.path.exists(path) and name in self._files
            ):
                with open(path, "w", encoding="utf-8") as file:
                    file.write(text)

    def _deliver(self, run: str, manifest: list[tuple[str, str]]) -> None:
        """Write the record, its page and the manifest on S3, in this order."""
        helper = self._uploader
        if helper is None or not helper.ask({"documents": [("run.json", run)]}):
            raise AgentError(
                "write the record",
                "the helper that uploads is gone",
                code=CANNOT_WRITE,
                hint="the results of each node are there, without a manifest",
            )
        page = self._page(run)  # made while the record is on its way
        helper.ask({"page": page, "documents": manifest, "last": True})
        if not self.wait("write the record", lambda: helper.done, _RECORD_SECONDS):
            raise AgentError(
                "write the record",
                "not done in time",
                code=CANNOT_WRITE,
                hint="look at the network",
            )
        helper.outcome()

    def _begin_page(self) -> None:
        """Start what makes the page: it imports its libraries while the results go up."""
        kept = self.settings.mode == BATCH or self.place is not None
        if self._page_maker or not (self.pages and kept and self.settings.topology.is_main):
            return
        path = os.path.join(self.settings.runtime_dir, "report.html")
        try:
            self._page_maker = self.start_helper("report", {"path": path}, self.hear)
        except AgentError as error:
            self.log.warning("no report.html", cause=str(error), hint=error.hint)

    def _page(self, run: str) -> str | None:
        """Return the page of the record, once it lies beside the results; None without one."""
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
            with open(path, encoding="utf-8") as file:
                page = file.read()
        except (AgentError, OSError) as error:
            self.log.warning("no report.html", cause=str(error), hint=getattr(error, "hint", None))
            return None
        finally:
            helper.close()
        self._keep("report.html", page)
        return page


def _no_credentials_now(failed: list[dict[str, Any]]) -> bool:
    """Tell whether results stayed here for nothing but credentials that did not come."""
    return all(one["what"] == CREDENTIALS and one.get("code") == S3_UNREACHABLE for one in failed)


def write_probe(settings: Settings) -> S3Place | None:
    """Return the object by which this node tries whether its results can be written."""
    place = settings.place
    return place / f"node-{settings.topology.index}/{PROBE}" if place else None
