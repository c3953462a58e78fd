"""The state of each node, from its log and its exit."""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from agent.core.model import Span

_TAIL_LINES = 50


@dataclass
class NodeState:
    """One node as its log shows it. Times are seconds since the epoch.

    `code` is the exit code of the node's process; `exit_record` the agent's own last record;
    `stopped`: the cluster stopped the node, because it still ran when the job was over.
    """

    index: int
    name: str
    log_dir: Path
    address: str = ""
    started: float | None = None
    exited: float | None = None
    code: int | None = None
    exit_record: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False
    fault: str = ""
    progress: str = ""
    spans: list[Span] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))

    @property
    def phase(self) -> str:
        """Return the node's current or last phase, empty before the first."""
        return self.spans[-1].phase if self.spans else ""

    @property
    def reached(self) -> list[str]:
        """Return the phases that the node has begun."""
        return [span.phase for span in self.spans]

    @property
    def errors(self) -> list[dict[str, Any]]:
        """Return the records of level error."""
        return [record for record in self.records if record.get("level") == "error"]

    @property
    def stdout(self) -> bytes:
        """Return everything the node wrote to stdout."""
        return self.stdout_file.read_bytes()

    @property
    def stderr(self) -> bytes:
        """Return everything the node wrote to stderr."""
        return self.stderr_file.read_bytes()

    @property
    def stdout_file(self) -> Path:
        """Return the file that keeps the node's stdout."""
        return self.log_dir / f"node-{self.index}.stdout"

    @property
    def stderr_file(self) -> Path:
        """Return the file that keeps the node's stderr."""
        return self.log_dir / f"node-{self.index}.stderr"

    def take(self, record: dict[str, Any]) -> None:
        """Update it from one record of the node's log."""
        self.records.append(record)
        event = record.get("event")
        if event == "phase_started" and isinstance(record.get("phase"), str):
            self._close(moment(record))
            self.spans.append(Span(record["phase"], moment(record)))
            self.progress = ""
        elif event == "progress":
            self.progress = f"{record.get('what', '')} {record.get('percent', '?')} %"
        elif event == "job_exited":
            self._close(moment(record))
            self.exit_record = record

    def end(self, code: int) -> None:
        """Note that the node's process has exited."""
        self.code, self.exited = code, time.time()
        self._close(self.exited)

    def _close(self, when: float) -> None:
        if self.spans and self.spans[-1].end is None:
            self.spans[-1].end = when


def parse_record(line: str) -> dict[str, Any] | None:
    """Return a line of the agent's log as a record, None for any other line."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "event" in record else None


def moment(record: dict[str, Any]) -> float:
    """Return when a record was written, in seconds since the epoch; now if it has no time."""
    try:
        return datetime.fromisoformat(str(record["timestamp"])).timestamp()
    except (KeyError, ValueError):
        return time.time()
