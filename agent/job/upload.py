"""Find this node's results and upload them, however long it takes and however many they are."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

from agent.core.errors import CANNOT_WRITE, AgentError, HelperDied, os_reason
from agent.core.model import CREDENTIALS
from agent.core.result_files import KEEP_HINT, RESULTS, STORED
from agent.core.s3place import S3Place, fields, has_own_endpoint
from agent.engine import result_list
from agent.engine.helpers import Helper
from agent.job.monitor import Monitor
from agent.staging import results
from agent.staging.journal import journal

# For a helper that says nothing: it tells of progress by percents, every ten seconds at most.
_UPLOAD_SECONDS = 3600.0
_POLL_SECONDS = 0.05
_NAMES_AT_ONCE = 10_000
# Of many results that are lost so many are named; of those that aren't a caller is told so many.
_NAMED = 1000
# Where packages were installed (`packages.LOG`, which this process doesn't load).
_DPKG_LOG = "dpkg.log"
# The agent's own log of the application, as people find it.
LOG = "time.log"


class Uploading(Monitor):
    """Uploads results; `before` is what lay in the output directory at launch."""

    output_dir = ""
    before: dict[str, results.Stamp] | None = None
    # Of the claim to the output directory, and the node that has it: several may share one.
    token = ""
    owner: int | None = None
    # What the application left in another working directory.
    unsaved: results.Unsaved | None = None
    # Whether an earlier try with the same place may have left a manifest.
    afresh = False
    _files: list[str]
    _logs: dict[str, str]
    _left_out: results.LeftOut
    _polled = 0.0
    _workdir = "/"
    _known: Sequence[str] = ()
    _began = 0.0
    _uploader: Helper | None = None
    _uploaded: dict[str, Any] | None = None
    _recorded = False
    _heard = 0

    @property
    def destination(self) -> S3Place | None:
        """Return where this attempt's results go on S3."""
        return self.settings.place

    @property
    def path_style(self) -> bool:
        """Tell whether S3 is asked with the bucket in the path: a given endpoint has no DNS."""
        return has_own_endpoint(self.settings.helper_env)

    def look_before(self) -> None:
        """Note what lies in the output directory, right before the application may write to it."""
        scratch, unpacked = self.settings.path("/tmp"), journal(self.settings.runtime_dir)
        self.before = results.snapshot(self.output_dir, scratch, unpacked, self.poll_events)
        self._workdir = self.settings.workdir or os.getcwd()
        # The whole system lies below the root directory: only what comes anew is the application's.
        self._known = os.listdir("/") if self._workdir == "/" else []
        self._began = time.time()

    def own_paths(self) -> list[str]:
        """Return the agent's own files and directories, which are no results."""
        path = self.settings.path
        return [
            self.settings.runtime_dir,
            f"{self.settings.runtime_dir}.lock",
            self.settings.exit_code_file,
            *(
                path(p)
                for p in ("/tmp/deps", "/tmp/batch", "/tmp/hostfile", "/tmp/hostfile-deduped")
            ),
            *(path(p) for p in ("/tmp/private.7z", "/tmp/deps.tar.gz")),
            # A directory for results may be /opt itself.
            *(path(f"/opt/{self.settings.key_name}{end}") for end in ("", ".pub")),
        ]

    def results(self) -> list[str]:
        """Return the result files of this node, relative to the output directory."""
        self._left_out = results.LeftOut()
        if self.before is None:
            return []  # nothing ran here, so nothing is this job's
        if self.shares or not os.path.isdir(self.output_dir):
            return sorted(self.logs())
        own, exclude = self.own_paths(), self.settings.exclude
        found = results.results(
            self.output_dir, self.before, own, exclude, self._left_out, self.poll_events
        )
        return [*found, *self.logs()]

    @property
    def shares(self) -> bool:
        """Tell whether another node uploads this node's output directory."""
        return self.owner not in (None, self.settings.topology.index)

    def logs(self) -> dict[str, str]:
        """Return the names and the sources of the agent's own files that are uploaded as well."""
        return {}

    def _look_for_unsaved(self) -> None:
        """Name what the application has left in a working directory that isn't uploaded."""
        top, output = os.path.realpath(self._workdir), os.path.realpath(self.output_dir)
        if self.before is None or os.path.commonpath([top, output]) == output:
            return
        own = [*self.own_paths(), output]
        self.unsaved = results.unsaved(top, self._began, own, self._known, self.poll_events)
        if self.unsaved is None:
            return
        self.log.warning(
            "workdir_not_uploaded",
            directory=top,
            files=self.unsaved.files[:20],
            count=self.unsaved.count,
            hint=KEEP_HINT.format(top),
        )

    def poll_events(self) -> None:
        """Let the loop have its turn now and then, in the midst of long work."""
        if self.loop.clock() - self._polled > _POLL_SECONDS:
            self.loop.poll_events()
            self._polled = self.loop.clock()

    def begin_upload(self) -> None:
        """Start to upload this node's results; the helper stays for the record."""
        self._files = self.results()
        self._logs = self._agent_logs()
        self._look_for_unsaved()
        if self.destination is None:
            self._keep_logs()
            return
        self._files += self._logs
        if links := self._left_out.links:
            hint = "copy what they lead to into the output directory"
            self.log.warning("links_not_followed", links=links[:20], count=len(links), hint=hint)
        if not self._files and not self.settings.topology.is_main:
            return  # a worker has no record to write either
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.stored_list)
            self._write_list()
        except OSError as error:
            what, hint = f"write the list of results {error.filename}", "check the disk: df -h"
            raise AgentError(what, os_reason(error), code=CANNOT_WRITE, hint=hint) from error
        self._upload_rest()

    @property
    def stored_list(self) -> str:
        """Return the file in which the helper notes what S3 has of this node's results."""
        return os.path.join(self.settings.runtime_dir, STORED)

    def _write_list(self) -> None:
        """Write the names of the results down: a million would be a long message."""
        with open(os.path.join(self.settings.runtime_dir, RESULTS), "wb") as file:
            for at in range(0, len(self._files), _NAMES_AT_ONCE):
                names = self._files[at : at + _NAMES_AT_ONCE]
                file.write(b"".join(os.fsencode(name) + b"\0" for name in names))
                self.poll_events()

    def _agent_logs(self) -> dict[str, str]:
        """Return the agent's logs to keep with the results: {name: path}, no result's name."""
        path = os.path.join(self.settings.runtime_dir, _DPKG_LOG)
        name = _DPKG_LOG if _DPKG_LOG not in self._files else f"architrave.{_DPKG_LOG}"
        return {name: path} if os.path.exists(path) else {}

    def _keep_logs(self) -> None:
        """Lay the agent's logs beside results that others will fetch."""
        for name, path in self._logs.items():
            target = os.path.join(self.output_dir, name)
            with contextlib.suppress(OSError):
                if os.path.isdir(self.output_dir) and not os.path.exists(target):
                    shutil.copyfile(path, target)

    def _upload_rest(self) -> None:
        """Start to upload what isn't stored yet."""
        request = {
            "place": fields(self.destination),
            "node": f"node-{self.settings.topology.index}",
            "path_style": self.path_style,
            "directory": self.output_dir,
            "list": os.path.join(self.settings.runtime_dir, RESULTS),
            "stored": self.stored_list,
            "own": self._logs | self.logs(),
            "afresh": self.afresh,
            # The job has waited for them already.
            "patient": self.failure is None or self.failure.what != CREDENTIALS,
        }
        self._uploaded = None
        self._uploader = self.start_helper("stage_out", request, self._on_upload_message)

    def _stored(self) -> set[str]:
        """Return the names of what S3 has, as far as the helper has noted them."""
        names = set()
        for file in result_list.files(self.stored_list):
            names.add(str(file["name"]))
            self.poll_events()
        return names

    def _on_upload_message(self, message: dict[str, Any]) -> None:
        self._heard += 1
        if "uploaded" in message:
            self._uploaded = message["uploaded"]
        elif "recorded" in message:
            self._recorded = True
        elif "stored" not in message:
            self.on_message(message)

    def finish_upload(self) -> dict[str, Any]:
        """Wait until the results are on S3; raise nothing.

        Returns {"count", "files" (of a few), "lost" (a count), "failed" (the first of the lost)}.
        """
        nothing: dict[str, Any] = {"count": 0, "files": [], "lost": 0, "failed": []}
        if self.destination is None or (self._uploader is None and not self._left_out.unreadable):
            return nothing
        answer = nothing
        try:
            if self._uploader is not None:
                answer |= self._await_upload()
        except AgentError as error:
            stored = self._stored()
            lost = [name for name in self._files if name not in stored]
            failed = [{"name": name, **error.to_json()} for name in lost[:_NAMED]]
            answer |= {"count": len(stored), "lost": len(lost), "failed": failed}
        answer["files"] = list(islice(result_list.files(self.stored_list), _NAMED))
        answer["lost"] += len(self._left_out.unreadable)
        answer["failed"] += [
            {"name": path, "what": f"read {path}", "cause": "permission denied", "hint": ""}
            for path in self._left_out.unreadable
        ]
        for failed_one in answer["failed"]:
            # Each is named; the line with the job's cause is that of `judged`, or there already.
            self.log.warning(
                "result_not_uploaded",
                what=failed_one["what"],
                cause=failed_one["cause"],
                hint=failed_one["hint"] or f"it stays in {self.output_dir}",
            )
        self.log.info(
            "upload_finished",
            files=answer["count"],
            failed=answer["lost"],
            to=str(self.destination),
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
            finished = self._wait_for_upload(what, helper)
            if self._uploaded is not None:
                return self._uploaded
            helper.close()
            try:
                if not finished:
                    hint = "look at the network, or leave more time for them"
                    raise HelperDied(what, "not done in time", code=CANNOT_WRITE, hint=hint)
                helper.outcome()
            except HelperDied as error:
                if not again or self.hurried:
                    raise
                self.log.warning("helper_retried", what=what, cause=error.cause)
                self._upload_rest()
        raise AssertionError("unreachable")

    def _wait_for_upload(self, what: str, helper: Helper) -> bool:
        """Wait as long as the helper tells something now and then: results may take hours."""
        heard = -1
        while heard != self._heard:
            heard = self._heard
            if self.wait(what, partial(self._upload_ended, helper), _UPLOAD_SECONDS):
                return True
        return False
