"""Take this node's results to S3, and write down what happened."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict
from typing import Any

from agent import cgroup, outputs, report
from agent.errors import CANNOT_WRITE, AgentError
from agent.model import Node, Outcome
from agent.settings import S3Place
from agent.supervisor import Supervisor

_UPLOAD_SECONDS, _RECORD_SECONDS = 3600.0, 60.0


class Delivery(Supervisor):
    """The last phase of every role. `before` is what lay in the output directory at launch."""

    output_dir = ""
    node = Node(0, "", 1)
    command: tuple[str, ...] = ()
    before: dict[str, outputs.Stamp] | None = None
    fetched: list[dict[str, Any]]

    @property
    def place(self) -> S3Place | None:
        """Return where this attempt's results go on S3."""
        topology = self.settings.topology
        output = self.settings.output
        return output / f"{topology.job}/attempt-{topology.attempt}" if output else None

    @property
    def path_style(self) -> bool:
        """Tell whether S3 is asked with the bucket in the path: a given endpoint has no DNS."""
        env = self.settings.helper_env
        return bool(env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL"))

    def results(self) -> list[str]:
        """Return the result files of this node, relative to the output directory."""
        path = self.settings.path
        own = [
            self.settings.runtime_dir,
            f"{self.settings.runtime_dir}.lock",
            self.settings.exit_code_file,
            os.path.join(self.output_dir, "run.json"),
            *(
                path(p)
                for p in ("/tmp/deps", "/tmp/batch", "/tmp/hostfile", "/tmp/hostfile-deduped")
            ),
            *(path(p) for p in ("/tmp/private.7z", "/tmp/deps.tar.gz")),
        ]
        if self.before is None:
            return []  # nothing ran here, so nothing is this job's
        return outputs.results(self.output_dir, self.before, own, self.settings.exclude)

    def upload(self, place: S3Place | None) -> dict[str, Any]:
        """Upload this node's results; return {"files", "failed"}."""
        files = self.results() if os.path.isdir(self.output_dir) else []
        if place is None or not files:
            return {"files": [], "failed": []}
        request = {
            "place": fields(place / f"node-{self.settings.topology.index}"),
            "path_style": self.path_style,
            "directory": self.output_dir,
            "files": files,
        }
        try:
            answer = self.call("stage_out", "upload the results", request, _UPLOAD_SECONDS)
        except AgentError as error:
            answer = {"files": [], "failed": [{"name": name, **error.to_json()} for name in files]}
        for failed in answer["failed"]:
            self.log.error(
                f"cannot {failed['what']}: {failed['cause']}",
                hint=failed["hint"] or f"it stays in {self.output_dir}",
            )
        self.log.info(
            "uploaded", files=len(answer["files"]), failed=len(answer["failed"]), place=str(place)
        )
        return answer

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
        sampler = self.application.sampler if self.application else None
        return report.node_record(
            self.node,
            self.spans,
            fetched=self.fetched,
            files=uploaded["files"],
            failed=[one["name"] for one in uploaded["failed"]],
            peaks=sampler.peaks() if sampler else {},
            samples=sampler.curves() if sampler else {},
            memory_limit_bytes=cgroup.memory_limit(),
        )

    def write_record(
        self, outcome: Outcome, nodes: dict[int, dict[str, Any]], place: S3Place | None
    ) -> None:
        """Write run.json here and on S3, and the manifest last, if nothing is missing."""
        child = self.application.child if self.application else None
        times = {
            "real": round(self.application.real_seconds, 3) if self.application else 0.0,
            "user": round(child.user_seconds, 3) if child else 0.0,
            "sys": round(child.system_seconds, 3) if child else 0.0,
        }
        topology = self.settings.topology
        run = report.run_json(
            topology, outcome, self.log.scrub(self.command), nodes.values(), times
        )
        with contextlib.suppress(OSError):
            if os.path.isdir(self.output_dir):
                with open(os.path.join(self.output_dir, "run.json"), "w", encoding="utf-8") as file:
                    file.write(run)
        if place is None:
            return
        documents = [("run.json", run)]
        complete = len(nodes) == topology.count and not any(n.get("failed") for n in nodes.values())
        if complete:
            parts = {index: node["files"] for index, node in nodes.items()}
            documents.append(("manifest.json", report.manifest_json(topology, parts)))
        request = {"place": fields(place), "path_style": self.path_style, "documents": documents}
        self.call("finish", "write the record", request, _RECORD_SECONDS)


def fields(place: S3Place | None) -> dict[str, str] | None:
    """Return a place as a helper is told it."""
    return asdict(place) if place else None
