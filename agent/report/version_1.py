"""Read run.json of version 1, which earlier agents have written."""

from __future__ import annotations

from typing import Any

from agent.core.model import RELEASE

RUN_SCHEMA_1 = "architrave-run/1"


def upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record with the names of version 2: `source` was `spoke`, `release` was `part`."""
    exit_ = dict(record["exit"])
    exit_["source"] = exit_.pop("spoke")
    nodes = [
        {**node, "phases": [_phase(one) for one in node["phases"]]} for node in record["nodes"]
    ]
    return {**record, "exit": exit_, "nodes": nodes}


def _phase(phase: dict[str, Any]) -> dict[str, Any]:
    return {**phase, "phase": RELEASE if phase["phase"] == "part" else phase["phase"]}
