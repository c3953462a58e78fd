"""Describe run.json as a JSON Schema.

The reference of its fields is made from it; docs/schemas/run-2.json is this schema as a file, and
run-1.json that of records from earlier agents.
"""

from __future__ import annotations

import json
from typing import Any

from agent.core.model import AGENT, APPLICATION, PHASES
from agent.report.run_json import RUN_SCHEMA

Schema = dict[str, Any]


def _of(kind: str | list[str], description: str, **more: Any) -> Schema:
    return {"type": kind, "description": description, **more}


def _object(description: str, fields: dict[str, Schema], optional: tuple[str, ...] = ()) -> Schema:
    """Describe an object; fields that are not known here may come with a later version."""
    required = [name for name in fields if name not in optional]
    return _of("object", description, properties=fields, required=required)


def _list(description: str, items: Schema) -> Schema:
    return _of("array", description, items=items)


def _numbers(description: str) -> Schema:
    return _list(description, {"type": "number", "minimum": 0})


def _amount(description: str) -> Schema:
    return _of("number", description, minimum=0)


_TEXT = {"type": "string"}
_SHA256 = _of("string", "SHA-256 in hexadecimal digits", pattern="^[0-9a-f]+$")

_EXIT = _object(
    "How the job ended.",
    {
        "code": _of(
            "integer", "the job's exit code, the same on every node", minimum=0, maximum=255
        ),
        "source": _of("string", "origin of the code", enum=[APPLICATION, AGENT]),
        "signal": _of("integer", "number of the signal that killed the application, 0 if none did"),
        "out_of_memory": _of("boolean", "whether the kernel killed a process for lack of memory"),
        "cause": _of("string", "what failed, empty after success"),
        "hint": _of("string", "what to do about it; may be empty"),
    },
)

_PHASE = _object(
    "One phase of a node.",
    {
        "phase": _of("string", "its name", enum=list(PHASES)),
        "start": _of("number", "when it began, in seconds of the node's monotonic clock"),
        "end": _of(
            ["number", "null"], "when it ended; null: it had not ended when the record was written"
        ),
    },
)

_FETCHED = _object(
    "One object that was fetched from S3.",
    {
        "object": _of("string", "s3://bucket/key"),
        "size": _of("integer", "bytes", minimum=0),
        "sha256": _SHA256,
        "checked": _list("what was checked against S3: size, ETag, checksums", _TEXT),
    },
)

_FILE = _object(
    "One result that was uploaded.",
    {
        "name": _of("string", "path relative to the node's output directory"),
        "size": _of("integer", "bytes, as S3 has them", minimum=0),
        "sha256": _SHA256,
        "final": _of(
            "boolean", "false: it kept changing while it was sent, S3 has one of its states"
        ),
    },
    optional=("final",),
)

_RATES = {
    "processors": "processors in use, 1.0 for one busy core",
    "read_bytes_per_second": "bytes that the job's processes had read from storage, per second",
    "written_bytes_per_second": "bytes that they had written to storage, per second",
    "received_bytes_per_second": "bytes received on all interfaces but lo, per second",
    "sent_bytes_per_second": "bytes sent on all interfaces but lo, per second",
}
_TOTALS = {
    "cpu_seconds": "processor seconds of the job's processes in total",
    "read_bytes": "bytes that the job's processes had read from storage in total",
    "written_bytes": "bytes that they had written to storage in total",
    "received_bytes": "bytes received in total on all interfaces but lo",
    "sent_bytes": "bytes sent in total on all interfaces but lo",
}
_MEMORY = "resident memory of all the job's processes, bytes"

_PEAKS = _object(
    "The highest values of one second while the application ran, and totals. Empty "
    "if it exited before the first sample.",
    {
        **{name: _amount(f"highest: {text}") for name, text in _RATES.items()},
        "resident_bytes": _amount(f"highest: {_MEMORY}"),
        "processes": _amount("highest number of processes at a time"),
        **{name: _amount(text) for name, text in _TOTALS.items()},
    },
    optional=(*_RATES, "resident_bytes", "processes", *_TOTALS),
)

_SAMPLES = _object(
    "Curves, one value for each sample, at most 600; a sample covers the time since the one "
    "before it. Empty if the application exited before the first one.",
    {
        "start": _of("number", "when sampling began, in seconds of the node's monotonic clock"),
        "seconds": _numbers("when the samples were taken, in seconds since start"),
        "resident_bytes": _numbers(f"{_MEMORY}; the highest"),
        **{name: _numbers(f"{text}; the mean") for name, text in _RATES.items()},
    },
    optional=("start", "seconds", "resident_bytes", *_RATES),
)

_UNSAVED = _of(
    ["object", "null"],
    "What the application left in a working directory that isn't uploaded; null: nothing.",
    properties={
        "directory": _of("string", "the working directory"),
        "files": _list("Names of files in it that were made or changed, the first hundred.", _TEXT),
        "count": _of("integer", "how many there are", minimum=1),
    },
    required=["directory", "files", "count"],
)

_NODE = _object(
    "What one node reports about itself.",
    {
        "index": _of("integer", "its index among the nodes", minimum=0),
        "address": _of("string", "its address, empty on a single node"),
        "slots": _of("integer", "processes for this node", minimum=0),
        "versions": _of(
            "object",
            "versions: architrave, python, kernel, machine",
            additionalProperties=_TEXT,
        ),
        "unix_minus_monotonic": _of(
            "number",
            "seconds to add to times of this node to get seconds since 1970, which can be compared "
            "between nodes",
        ),
        "written": _of("number", "when this was written, in seconds of its monotonic clock"),
        "phases": _list("Its phases, one after the other.", _PHASE),
        "fetched": _list("What it has fetched.", _FETCHED),
        "files": _list("The results that it has uploaded.", _FILE),
        "file_count": _of("integer", "how many results it has uploaded", minimum=0),
        "failed": _list("Names of results that could not be uploaded.", _TEXT),
        "unsaved": _UNSAVED,
        "peaks": _PEAKS,
        "samples": _SAMPLES,
        "memory_limit_bytes": _of(["integer", "null"], "the cgroup's limit; null: there is none"),
        "memory_total_bytes": _of("integer", "the machine's memory"),
        "processor_limit": _of("integer", "processors that it may use: affinity and cgroup quota"),
    },
    optional=("unsaved", "file_count", "written", "memory_total_bytes", "processor_limit"),
)

_OPTIONAL = ("node_count", "last_lines")

SCHEMA: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": f"urn:{RUN_SCHEMA.replace('/', ':')}",
    "title": "run.json",
    **_object(
        "What happened in one attempt of a job, as its main node writes it at the end.",
        {
            "schema": _of("string", "version of this schema", const=RUN_SCHEMA),
            "job": _of("string", "the job's id"),
            "attempt": _of("integer", "which attempt of the job, from 1", minimum=1),
            "node_count": _of("integer", "number of nodes that the job should have", minimum=1),
            "main_node": _of(
                "integer", "index of the node that launched the application", minimum=0
            ),
            "command": _list(
                "The command that was run, argument by argument; secrets are replaced.", _TEXT
            ),
            "exit": _EXIT,
            "times": _object(
                "The application's times on the main node, as bash's `time` names them.",
                {
                    "real": _amount("seconds from its start to its end"),
                    "user": _amount("processor seconds in user mode, of reaped processes"),
                    "sys": _amount("processor seconds in the kernel, of reaped processes"),
                },
            ),
            "last_lines": _list("After a failure: the end of the application's output.", _TEXT),
            "nodes": _list("All nodes that have sent a record, by index.", _NODE),
        },
        optional=_OPTIONAL,
    ),
}


if __name__ == "__main__":
    print(json.dumps(SCHEMA, indent=2))
