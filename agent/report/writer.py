"""Make run.json and manifest.json from the nodes' files, one line for each node and each file.

A million results, or the curves of a thousand nodes, take seconds and much memory: so for large
jobs this runs in a helper process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TextIO

from agent.core.errors import CANNOT_WRITE, AgentError, os_reason
from agent.core.model import Emit, NodeFiles
from agent.core.result_files import MANIFEST, RUN
from agent.engine.result_list import files, open_no_link
from agent.report.run_json import MANIFEST_SCHEMA


def load(node: NodeFiles) -> dict[str, Any]:
    """Return a node's record, without its results."""
    with open(node.record, encoding="utf-8", opener=open_no_link) as file:
        found: dict[str, Any] = json.load(file)["record"]
    return found


def request(
    head: Mapping[str, Any],
    nodes: Mapping[int, NodeFiles],
    directory: str,
    keep: str,
    *,
    complete: bool,
) -> dict[str, Any]:
    """Return what `write` is asked. `head` is run.json without its nodes; `keep` is a path for a
    copy, empty for none. A manifest is written if every node's results are `complete`.
    """
    return {
        "head": dict(head),
        "nodes": [[index, asdict(node)] for index, node in sorted(nodes.items())],
        "run": os.path.join(directory, RUN),
        "manifest": os.path.join(directory, MANIFEST) if complete else "",
        "keep": keep,
    }


def record(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Write run.json where nothing is uploaded."""
    write(request)
    return {}


def write(request: Mapping[str, Any]) -> None:
    """Write run.json and manifest.json, as `request` has it; raise AgentError (73)."""
    try:
        _write(request)
    except OSError as error:
        what, hint = f"write {error.filename or RUN}", "check the disk: df -h"
        raise AgentError(what, os_reason(error), code=CANNOT_WRITE, hint=hint) from error


def _write(request: Mapping[str, Any]) -> None:
    head, nodes = request["head"], [(i, NodeFiles(**node)) for i, node in request["nodes"]]
    with open(request["run"], "w", encoding="utf-8") as file:
        file.write(json.dumps(head)[:-1] + ', "nodes": [')
        for count, (_, node) in enumerate(nodes):
            known = load(node)
            inline = known.pop("files", [])
            file.write(",\n" if count else "\n")
            file.write(json.dumps(known)[:-1] + ', "files": [')
            _join(file, ", ", inline or files(node.listed))
            file.write("]}")
        file.write("\n]}\n")
    if request["keep"]:
        with contextlib.suppress(OSError):
            shutil.copyfile(request["run"], request["keep"])
    if request["manifest"]:
        with open(request["manifest"], "w", encoding="utf-8") as file:
            start = {
                "schema": MANIFEST_SCHEMA,
                "job": head["job"],
                "attempt": head["attempt"],
                "nodes": head["node_count"],
            }
            file.write(json.dumps(start)[:-1] + ', "files": [\n')
            _join(file, ",\n", (one for index, node in nodes for one in _paths(index, node)))
            file.write("\n]}\n")


def _paths(index: int, node: NodeFiles) -> Iterator[dict[str, Any]]:
    for one in files(node.listed):
        name = one.pop("name")
        yield {"path": f"node-{index}/{name}"} | one


def _join(file: TextIO, between: str, values: Iterator[Any] | Sequence[Any]) -> None:
    for count, value in enumerate(values):
        file.write((between if count else "") + json.dumps(value))
