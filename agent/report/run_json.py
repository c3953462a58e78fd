"""Make run.json and manifest.json: the run's record, and the uploaded files."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent import __version__
from agent.core.model import Node, Outcome, Span, Topology

RUN_SCHEMA = "architrave-run/2"
MANIFEST_SCHEMA = "architrave-manifest/1"


def node_record(node: Node, spans: Iterable[Span], **more: Any) -> dict[str, Any]:
    """Return what one node reports about itself.

    Phases, and when this was `written`, are in seconds of this node's monotonic clock;
    `unix_minus_monotonic` turns them into times that are comparable between nodes.
    """
    return {
        "index": node.index,
        "address": node.address,
        "slots": node.slots,
        "versions": {
            "architrave": __version__,
            "python": sys.version.split()[0],
            "kernel": os.uname().release,
            "machine": os.uname().machine,
        },
        "unix_minus_monotonic": round(time.time() - time.monotonic(), 3),
        "written": round(time.monotonic(), 4),
        "phases": [
            {"phase": s.phase, "start": round(s.start, 4), "end": s.end and round(s.end, 4)}
            for s in spans
        ],
        **more,
    }


def run_head(
    topology: Topology,
    outcome: Outcome,
    command: Sequence[str],
    times: Mapping[str, float],
    **more: Any,
) -> dict[str, Any]:
    """Return the run's record without its nodes; `times` are in seconds."""
    return {
        "schema": RUN_SCHEMA,
        "job": topology.job,
        "attempt": topology.attempt,
        "node_count": topology.count,
        "main_node": topology.main_index,
        "command": list(command),
        "exit": outcome.to_json(),
        "times": dict(times),
        **more,
    }


def run_json(
    topology: Topology,
    outcome: Outcome,
    command: Sequence[str],
    nodes: Iterable[Mapping[str, Any]],
    times: Mapping[str, float],
    **more: Any,
) -> str:
    """Return the run's record, as `run_schema` describes it, of a few nodes with few results."""
    record = run_head(topology, outcome, command, times, **more)
    record["nodes"] = sorted(nodes, key=lambda node: int(node["index"]))
    return json.dumps(record) + "\n"


def manifest_json(topology: Topology, parts: Mapping[int, Iterable[Mapping[str, Any]]]) -> str:
    """Return the list of every file of every node: `node-<index>/<name>`, size, SHA-256."""
    files = [
        {"path": f"node-{index}/{file['name']}"} | {k: v for k, v in file.items() if k != "name"}
        for index, listed in sorted(parts.items())
        for file in listed
    ]
    manifest = {
        "schema": MANIFEST_SCHEMA,
        "job": topology.job,
        "attempt": topology.attempt,
        "nodes": topology.count,
        "files": files,
    }
    return json.dumps(manifest, indent=1) + "\n"
