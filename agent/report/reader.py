"""Read run.json for the report: one clock for all nodes, their phases and curves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from math import isfinite
from typing import Any

from agent.core import units
from agent.core.errors import BAD_ARCHIVE, AgentError
from agent.core.model import APPLICATION, PHASES, node_name
from agent.core.result_files import KEEP_HINT
from agent.report.run_json import RUN_SCHEMA
from agent.report.version_1 import RUN_SCHEMA_1, upgraded

_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])")
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_NAMED = 10


@dataclass(frozen=True)
class Stage:
    """One phase of one node, in seconds since the run began on the first node."""

    phase: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Return how long it took."""
        return self.end - self.start


@dataclass(frozen=True)
class Measured:
    """One node's time in a phase."""

    seconds: float
    node: Machine


@dataclass(frozen=True)
class Machine:
    """One node of the run; `samples` and `peaks` are those of its record."""

    index: int
    name: str
    address: str
    slots: int
    stages: list[Stage]
    samples: Mapping[str, list[float]]
    sampled_from: float
    peaks: Mapping[str, float]
    limits: Mapping[str, float]
    fetched: list[Mapping[str, Any]]
    files: list[Mapping[str, Any]]
    failed: list[str]
    unsaved: str
    versions: Mapping[str, str]

    @property
    def started(self) -> float:
        """Return when it started, in seconds since the first node did."""
        return self.stages[0].start if self.stages else 0.0

    def seconds(self, phase: str) -> float:
        """Return its time in a phase, 0 without one."""
        return sum(stage.seconds for stage in self.stages if stage.phase == phase)

    @cached_property
    def uploaded_bytes(self) -> int:
        """Return the size of its results."""
        return sum(int(file["size"]) for file in self.files)

    @cached_property
    def fetched_bytes(self) -> int:
        """Return the size of what it has fetched."""
        return sum(int(file["size"]) for file in self.fetched)

    def mean(self, name: str) -> float:
        """Return the mean of a curve over its time."""
        values, times = self.samples.get(name, []), self.samples.get("seconds", [])
        if not values or not times[-1]:
            return 0.0
        before = [0.0, *times]
        return sum(v * (t - b) for v, t, b in zip(values, times, before, strict=False)) / times[-1]


@dataclass(frozen=True)
class Run:
    """One attempt of a job, as its record has it."""

    job: str
    attempt: int
    began: datetime | None
    count: int
    command: str
    code: int
    source: str
    signal: int
    out_of_memory: bool
    cause: str
    hint: str
    times: Mapping[str, float]
    last_lines: list[str]
    main: int
    nodes: list[Machine] = field(default_factory=list)

    @property
    def main_node(self) -> Machine | None:
        """Return the node that launched the application, if it has sent a record."""
        return next((node for node in self.nodes if node.index == self.main), None)

    @property
    def missing(self) -> list[str]:
        """Return the names of nodes that have sent no record."""
        there = {node.index for node in self.nodes}
        return [node_name(i, self.main) for i in range(self.count) if i not in there]

    @cached_property
    def seconds(self) -> float:
        """Return the time from the first node's start to the record."""
        return max((stage.end for node in self.nodes for stage in node.stages), default=0.0)

    @cached_property
    def phases(self) -> dict[str, list[Measured]]:
        """Return every node's time in each phase, the shortest first."""
        found: dict[str, list[Measured]] = {}
        for phase in PHASES:
            taken = [
                Measured(node.seconds(phase), node)
                for node in self.nodes
                if any(stage.phase == phase for stage in node.stages)
            ]
            if taken:
                found[phase] = sorted(taken, key=lambda one: one.seconds)
        return found

    @cached_property
    def files(self) -> list[tuple[str, int]]:
        """Return every result's name and size in bytes, the largest first."""
        named = [
            (f"node-{node.index}/{file['name']}", int(file["size"]))
            for node in self.nodes
            for file in node.files
        ]
        return sorted(named, key=lambda one: (-one[1], one[0]))

    @property
    def sampled(self) -> list[Machine]:
        """Return the nodes that have curves."""
        return [node for node in self.nodes if node.samples.get("seconds")]


def outcome(run: Run) -> str:
    """Return how the run went, in one sentence."""
    nodes = "1 node" if run.count == 1 else f"{run.count} nodes"
    where = f"after {units.duration(run.seconds)} on {nodes}"
    if not run.code:
        return f"The job succeeded {where}."
    if run.out_of_memory:
        why = f"its memory ran out (exit code {run.code})"
    elif run.source != APPLICATION:
        why = f"{run.cause or 'the agent stopped it'} (exit code {run.code})"
    elif run.signal:
        why = f"the application was killed by signal {run.signal} (exit code {run.code})"
    else:
        why = f"the application failed with exit code {run.code}"
    return f"The job failed {where}: {why}."


def read(record: Any) -> Run:
    """Return the run of a record; raise AgentError (65) for anything else."""
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema not in (RUN_SCHEMA, RUN_SCHEMA_1):
        raise _wrong(f"its schema is neither {RUN_SCHEMA} nor {RUN_SCHEMA_1}")
    try:
        return _run(upgraded(record) if schema == RUN_SCHEMA_1 else record)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise _wrong(f"{type(error).__name__}: {error}") from error


def _wrong(cause: str) -> AgentError:
    hint = "use an unmodified run.json from the results"
    return AgentError("read the record of a run", cause, code=BAD_ARCHIVE, hint=hint)


def _plain(value: Any) -> str:
    """Return one line without terminal control sequences and what UTF-8 can't encode."""
    line = " ".join(str(value).split("\n"))
    return _UNSAFE.sub("\ufffd", _ESCAPES.sub("", line))


def _run(record: dict[str, Any]) -> Run:
    main = int(record["main_node"])
    nodes = record["nodes"]
    zero = min(
        (
            node["unix_minus_monotonic"] + node["phases"][0]["start"]
            for node in nodes
            if node["phases"]
        ),
        default=0.0,
    )
    exit_ = record["exit"]
    return Run(
        job=_plain(record["job"]),
        attempt=int(record["attempt"]),
        began=datetime.fromtimestamp(zero, UTC) if zero else None,
        count=int(record.get("node_count", len(nodes))),
        command=_as_typed(record["command"]),
        code=int(exit_["code"]),
        source=str(exit_["source"]),
        signal=int(exit_["signal"]),
        out_of_memory=bool(exit_["out_of_memory"]),
        cause=_plain(exit_["cause"]),
        hint=_plain(exit_["hint"]),
        times={name: float(value) for name, value in record["times"].items()},
        last_lines=[_plain(line) for line in record.get("last_lines", [])],
        main=main,
        nodes=[_machine(node, main, zero) for node in nodes],
    )


def _as_typed(arguments: Iterable[str]) -> str:
    """Return a command quoted for a shell."""
    from shlex import join

    lines = join(str(argument) for argument in arguments).split("\n")
    return "\n".join(map(_plain, lines))


def _machine(node: dict[str, Any], main: int, zero: float) -> Machine:
    offset = float(node["unix_minus_monotonic"]) - zero
    samples = dict(node.get("samples") or {})
    start = samples.pop("start", None)
    stages = _stages(node, offset)
    runs = next((stage.start for stage in stages if stage.phase == "run"), 0.0)
    limits = {
        "processors": node.get("processor_limit"),
        "resident_bytes": node.get("memory_limit_bytes") or node.get("memory_total_bytes"),
    }
    return Machine(
        index=int(node["index"]),
        name=node_name(int(node["index"]), main),
        address=_plain(node["address"]),
        slots=int(node["slots"]),
        stages=stages,
        samples=_curves(samples),
        sampled_from=runs if start is None else float(start) + offset,
        peaks={str(name): float(value) for name, value in (node.get("peaks") or {}).items()},
        limits={name: float(value) for name, value in limits.items() if value},
        fetched=[{**one, "object": _plain(one["object"])} for one in node.get("fetched") or []],
        files=[{**file, "name": _plain(file["name"])} for file in node["files"]],
        failed=[_plain(name) for name in node.get("failed") or []],
        unsaved=_unsaved(node.get("unsaved")),
        versions={_plain(name): _plain(text) for name, text in node["versions"].items()},
    )


def _unsaved(found: Mapping[str, Any] | None) -> str:
    """Return what was left in the working directory, as a sentence; empty for nothing."""
    if not found:
        return ""
    names, count = [_plain(name) for name in found["files"]][:_NAMED], int(found["count"])
    more = f" and {count - len(names)} more" if count > len(names) else ""
    directory = _plain(found["directory"])
    hint = KEEP_HINT.format(directory)
    return f"{', '.join(names)}{more} in the working directory {directory}; {hint}"


def _curves(samples: dict[str, Any]) -> dict[str, list[float]]:
    """Return the curves; raise ValueError if they don't belong together."""
    curves = {str(name): [float(one) for one in values] for name, values in samples.items()}
    if len({len(values) for values in curves.values()}) > 1:
        raise ValueError("its curves are not of the same length")
    if not all(isfinite(value) for values in curves.values() for value in values):
        raise ValueError("its curves have values that are not numbers")
    return curves


def _stages(node: dict[str, Any], offset: float) -> list[Stage]:
    """Return a node's phases; the last one still went on when the record was written."""
    phases = node["phases"]
    written = float(node.get("written") or max((p["end"] or p["start"] for p in phases), default=0))
    return [
        Stage(
            str(phase["phase"]),
            max(0.0, float(phase["start"]) + offset),  # the first node's may be off by rounding
            float(written if phase["end"] is None else phase["end"]) + offset,
        )
        for phase in phases
    ]
