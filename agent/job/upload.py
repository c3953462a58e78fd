"""Upload a node's results, of any number and size."""

from __future__ import annotations

import contextlib
import os
import shutil
from itertools import islice
from typing import Any

from agent.core.errors import (
    CANNOT_WRITE,
    S3_UNREACHABLE,
    AgentError,
    HelperDied,
    os_reason,
)
from agent.core.model import CREDENTIALS
from agent.core.result_files import RESULTS, STORED
from agent.core.s3_uri import fields, has_own_endpoint
from agent.engine import result_list
from agent.engine.helpers import Helper
from agent.job.helper_calls import HelperCalls
from agent.job.output_dir import OutputDirectory
from agent.job.supervisor import Supervisor

# The helper reports progress, at least every percent; silence for this long means that it hangs.
_SILENT_SECONDS = 3600.0
_NAMES_AT_ONCE = 10_000
# At most this many lost results are named, and as many stored ones are returned to a caller.
_NAMED = 1000
# Where packages were installed (`packages.LOG`, which this process doesn't load).
_DPKG_LOG = "dpkg.log"
_WHAT = "upload the results"


class Upload:
    """The results of one node on their way to S3.

    `files` are the names that were found, `stored_list` the file in which the helper notes what S3
    has. `fresh`: an earlier try with the same destination may have left a manifest.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        helpers: HelperCalls,
        output_dir: OutputDirectory,
        *,
        fresh: bool = False,
    ) -> None:
        self.files: list[str] = []
        self.helper: Helper | None = None
        self.is_recorded = False
        self.stored_list = os.path.join(supervisor.settings.runtime_dir, STORED)
        self._supervisor = supervisor
        self._settings = supervisor.settings
        self._helpers = helpers
        self._output_dir = output_dir
        self._fresh = fresh
        self._logs: dict[str, str] = {}
        self._uploaded: dict[str, Any] | None = None
        self._messages = 0
        # What was uploaded, once `finish` knows it.
        self.answer: dict[str, Any] = {"count": 0, "files": [], "lost": 0, "failed": []}

    def begin(self) -> None:
        """Start to upload this node's results; the helper stays for the record."""
        output_dir, settings = self._output_dir, self._settings
        self.files = output_dir.find_results()
        self._logs = self._agent_logs()
        output_dir.find_unsaved()
        if settings.results_uri is None:
            self._keep_logs()
            return
        self.files += self._logs
        self._warn_of_left_out()
        if not self.files and not settings.topology.is_main:
            return  # a worker has no record to write either
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.stored_list)
            self._write_list()
        except OSError as error:
            what, hint = f"write the list of results {error.filename}", "check the disk: df -h"
            raise AgentError(what, os_reason(error), code=CANNOT_WRITE, hint=hint) from error
        self._start()

    def _warn_of_left_out(self) -> None:
        """Name what is not uploaded, and the patterns that match nothing."""
        left_out, log = self._output_dir.left_out, self._supervisor.log
        if links := left_out.links:
            hint = "copy the files that they lead to into the output directory"
            log.warning("links_not_followed", links=links[:20], count=len(links), hint=hint)
        if cores := left_out.cores:
            hint = "set ARCHITRAVE_ULIMITS=core=unlimited to upload them"
            log.warning("core_dumps_not_uploaded", files=cores[:20], count=len(cores), hint=hint)
        if left_out.unmatched and self._settings.topology.is_main:
            hint = "a pattern is a name, or a path relative to the output directory"
            log.warning("exclude_unmatched", patterns=left_out.unmatched, hint=hint)

    def skip(self) -> None:
        """Upload nothing: this node was declared lost, and run.json already says so."""
        verdict, files = self._supervisor.verdict, self._output_dir.find_results()
        self._supervisor.log.warning(
            "results_not_uploaded",
            directory=self._output_dir.path,
            files=files[:20],
            count=len(files),
        )
        assert verdict.failure is not None
        verdict.degrade(verdict.failure)

    def _write_list(self) -> None:
        """Write down the names of the results: a million would be a long message."""
        with open(os.path.join(self._settings.runtime_dir, RESULTS), "wb") as file:
            for at in range(0, len(self.files), _NAMES_AT_ONCE):
                names = self.files[at : at + _NAMES_AT_ONCE]
                file.write(b"".join(os.fsencode(name) + b"\0" for name in names))
                self._output_dir.poll_events()

    def _agent_logs(self) -> dict[str, str]:
        """Return the agent's logs to keep with the results: {name: path}, no result's name."""
        path = os.path.join(self._settings.runtime_dir, _DPKG_LOG)
        name = _DPKG_LOG if _DPKG_LOG not in self.files else f"architrave.{_DPKG_LOG}"
        return {name: path} if os.path.exists(path) else {}

    def _keep_logs(self) -> None:
        """Copy the agent's logs beside results that others will fetch."""
        for name, path in self._logs.items():
            target = os.path.join(self._output_dir.path, name)
            with contextlib.suppress(OSError):
                if os.path.isdir(self._output_dir.path) and not os.path.exists(target):
                    shutil.copyfile(path, target)

    def _start(self) -> None:
        """Start to upload what isn't stored yet."""
        settings, failure = self._settings, self._supervisor.verdict.failure
        request = {
            "uri": fields(settings.results_uri),
            "node": f"node-{settings.topology.index}",
            "path_style": has_own_endpoint(settings.helper_env),
            "directory": self._output_dir.path,
            "list": os.path.join(settings.runtime_dir, RESULTS),
            "stored": self.stored_list,
            "own": self._logs | self._output_dir.logs(),
            "afresh": self._fresh,
            # The job has waited for them already.
            "patient": failure is None or failure.what != CREDENTIALS,
        }
        self._uploaded = None
        self.helper = self._helpers.start("stage_out", request, self._on_message)

    def _on_message(self, message: dict[str, Any]) -> None:
        self._messages += 1
        if "uploaded" in message:
            self._uploaded = message["uploaded"]
        elif "recorded" in message:
            self.is_recorded = True
        elif "stored" not in message:
            self._helpers.log_message(message)

    def finish(self) -> dict[str, Any]:
        """Wait until the results are on S3; raise nothing.

        Returns {"count", "files" (of a few), "lost" (a count), "failed" (the first of the lost)}.
        What is lost makes the job's code 73, if nothing failed before.
        """
        answer = self.answer
        unreadable = self._output_dir.left_out.unreadable
        if self._settings.results_uri is None or (self.helper is None and not unreadable):
            return answer
        try:
            if self.helper is not None:
                answer |= self._await()
        except AgentError as error:
            stored = self._stored()
            lost = [name for name in self.files if name not in stored]
            failed = [{"name": name, **error.to_json()} for name in lost[:_NAMED]]
            answer |= {"count": len(stored), "lost": len(lost), "failed": failed}
        answer["files"] = list(islice(result_list.files(self.stored_list), _NAMED))
        answer["lost"] += len(unreadable)
        answer["failed"] += [
            {"name": path, "what": f"read {path}", "cause": "permission denied", "hint": ""}
            for path in unreadable
        ]
        self._judge(answer)
        return answer

    def _judge(self, answer: dict[str, Any]) -> None:
        log, uri = self._supervisor.log, self._settings.results_uri
        failed = answer["failed"]
        for one in failed:
            # Each is named; the line with the job's cause is the one below, or there already.
            log.warning(
                "result_not_uploaded",
                what=one["what"],
                cause=one["cause"],
                hint=one["hint"] or f"it stays in {self._output_dir.path}",
            )
        log.info("upload_finished", files=answer["count"], failed=answer["lost"], to=str(uri))
        if not failed or self._supervisor.verdict.code:
            return
        names = ", ".join(str(one["name"]) for one in failed[:5])
        error = AgentError(
            f"upload {answer['lost']} results ({names})",
            str(failed[0]["cause"]),
            # Nothing was refused or half written: the same job may succeed later.
            code=S3_UNREACHABLE if _no_credentials_now(failed) else CANNOT_WRITE,
            hint=str(failed[0]["hint"]),
        )
        self._supervisor.degrade(error)

    def _stored(self) -> set[str]:
        """Return the names of what S3 has, as far as the helper has noted them."""
        names = set()
        for file in result_list.files(self.stored_list):
            names.add(str(file["name"]))
            self._output_dir.poll_events()
        return names

    def _await(self) -> dict[str, Any]:
        """Wait for the helper; one that dies or hangs is restarted once."""
        retry = self._helpers.retry(_WHAT)
        while True:
            helper = self.helper
            assert helper is not None
            finished = self._wait(helper)
            if self._uploaded is not None:
                return self._uploaded
            helper.close()
            try:
                if not finished:
                    hint = "check the network, or leave more time for the upload"
                    raise HelperDied(_WHAT, "not done in time", code=CANNOT_WRITE, hint=hint)
                helper.outcome()
                raise AssertionError("the helper exited without an answer")
            except HelperDied as error:
                if not retry.again(error):
                    raise
                self._start()

    def _wait(self, helper: Helper) -> bool:
        """Wait as long as the helper reports something now and then: results may take hours."""
        messages = -1
        while messages != self._messages:
            messages = self._messages
            if self._supervisor.wait(
                _WHAT, lambda: self._uploaded is not None or helper.done, _SILENT_SECONDS
            ):
                return True
        return False


def _no_credentials_now(failed: list[dict[str, Any]]) -> bool:
    """Return whether results stayed here only because AWS credentials never arrived."""
    return all(one["what"] == CREDENTIALS and one.get("code") == S3_UNREACHABLE for one in failed)
