"""Take this node's results to S3, and write down what happened."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from agent import cgroup, outputs, report
from agent.errors import CANNOT_WRITE, AgentError, HelperDied
from agent.helpers import Helper
from agent.model import AGENT, Node, Outcome
from agent.observer import Observer
from agent.settings import BATCH, S3Place, Settings

_UPLOAD_SECONDS, _RECORD_SECONDS, _PAGE_SECONDS = 3600.0, 60.0, 20.0

PROBE = ".write-probe"


class Delivery(Observer):
    """The last phase of every role. `before` is what lay in the output directory at launch."""

    output_dir = ""
    node = Node(0, "", 1)
    command: tuple[str, ...] = ()
    before: dict[str, outputs.Stamp] | None = None
    fetched: list[dict[str, Any]]
    _files: list[str]
    _unreadable: list[str]
    _uploader: Helper | None = None
    _uploaded: dict[str, Any] | None = None
    _stored: list[dict[str, Any]]
    # Whether an earlier try with the same place may have left a manifest.
    afresh = False
    # Whether a page for people is made where the record is kept.
    pages = True
    _page_maker: Helper | None = None

    @property
    def place(self) -> S3Place | None:
        """Return where this attempt's results go on S3."""
        return self.settings.place

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

    @property
    def path_style(self) -> bool:
        """Tell whether S3 is asked with the bucket in the path: a given endpoint has no DNS."""
        return has_own_endpoint(self.settings.helper_env)

    def results(self) -> list[str]:
        """Return the result files of this node, relative to the output directory."""
        path = self.settings.path
        own = [
            self.settings.runtime_dir,
            f"{self.settings.runtime_dir}.lock",
            self.settings.exit_code_file,
            *(
                path(p)
                for p in ("/tmp/deps", "/tmp/batch", "/tmp/hostfile", "/tmp/hostfile-deduped")
            ),
            *(path(p) for p in ("/tmp/private.7z", "/tmp/deps.tar.gz")),
        ]
        if self.before is None:
            return []  # nothing ran here, so nothing is this job's
        self._unreadable = []
        exclude = self.settings.exclude
        return outputs.results(self.output_dir, self.before, own, exclude, self._unreadable)

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
        files = self.results() if os.path.isdir(self.output_dir) else []
        self.log.warning(
            "results left alone", directory=self.output_dir, files=files[:20], count=len(files)
        )
        return outcome if outcome.code else self.outcome_of(self.failure)

    def begin_upload(self) -> None:
        """Start to upload this node's results; the helper stays for what `_deliver` gives it."""
        self._begin_page()
        place = self.place
        if place is None:
            return
        self._unreadable = []
        self._files = self.results() if os.path.isdir(self.output_dir) else []
        if not self._files and not self.settings.topology.is_main:
            return  # a worker has no record to write either
        request = {
            "place": fields(place),
            "node": f"node-{self.settings.topology.index}",
            "path_style": self.path_style,
            "directory": self.output_dir,
            "files": self._files,
            "afresh": self.afresh,
        }
        self._uploaded, self._stored = None, []
        self._uploader = self.start_helper("stage_out", request, self._hear_upload)

    def _hear_upload(self, message: dict[str, Any]) -> None:
        if "uploaded" in message:
            self._uploaded = message["uploaded"]
        elif "stored" in message:
            self._stored += message["stored"]
        else:
            self.hear(message)

    def finish_upload(self) -> dict[str, Any]:
        """Wait until the results are on S3; return {"files", "failed"}. Raises nothing."""
        if self._uploader is None:
            return {"files": [], "failed": []}
        try:
            answer = self._await_upload()
        except AgentError as error:
            stored = {file["name"] for file in self._stored}
            left = [name for name in self._files if name not in stored]
            failed = [{"name": name, **error.to_json()} for name in left]
            answer = {"files": self._stored, "failed": failed}
        answer["failed"] += [
            {"name": path, "what": f"read {path}", "cause": "permission denied", "hint": ""}
            for path in self._unreadable
        ]
        for failed in answer["failed"]:
            # Each is named; the line with the job's cause is that of `judged`, or there already.
            self.log.warning(
                f"cannot {failed['what']}: {failed['cause']}",
                hint=failed["hint"] or f"it stays in {self.output_dir}",
            )
        self.log.info(
            "uploaded", files=len(answer["files"]), failed=len(answer["failed"]), to=str(self.place)
        )
        return answer

    def _upload_ended(self, helper: Helper) -> bool:
        return self._uploaded is not None or helper.done

    def _await_upload(self) -> dict[str, Any]:
        """Wait for the helper; one that dies or hangs is tried once more."""
        for again in (True, False):
            helper = self._uploader
            assert helper is not None
            what = "upload the results"
            came = self.wait(what, partial(self._upload_ended, helper), _UPLOAD_SECONDS)
            if self._uploaded is not None:
                return self._uploaded
            helper.close()
            try:
                if not came:
                    hint = "look at the network, or leave more time for them"
                    raise HelperDied(what, "not done in time", code=CANNOT_WRITE, hint=hint)
                helper.outcome()
            except HelperDied as error:
                if not again or self.hurried:
                    raise
                self.log.warning("trying once more", cause=error.cause)
                self.begin_upload()
        raise AssertionError("unreachable")

    def judged(self, outcome: Outcome, uploaded: dict[str, Any]) -> Outcome:
        """Return the outcome with what uploading says of it: 73 if nothing failed before."""
        failed = uploaded["failed"]
        if not failed or outcome.code:
            return outcome
        names = ", ".join(str(one["name"]) for one in failed[:5])
        error = AgentError(
            f"upload {len(failed)} results ({names})",
            str(failed[0]["cause"]),
            code=CANNOT_WRITE,
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
                os.path.exists(path) and name in self.results()
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


def write_probe(settings: Settings) -> S3Place | None:
    """Return the object by which this node tries whether its results can be written."""
    place = settings.place
    return place / f"node-{settings.topology.index}/{PROBE}" if place else None


def has_own_endpoint(env: Mapping[str, str]) -> bool:
    """Tell whether S3 is asked with the bucket in the path: a given endpoint has no DNS."""
    return bool(env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL"))


def fields(place: S3Place | None) -> dict[str, str] | None:
    """Return a place as a helper is told it."""
    return asdict(place) if place else None
