"""Stage out the results, and the record once it is asked for. Runs in helper processes."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.core.errors import AgentError
from agent.core.model import Emit
from agent.core.result_files import MANIFEST, RUN
from agent.core.s3_uri import S3Uri
from agent.engine import result_list
from agent.staging.s3 import MANY, SMALL, Storage
from agent.staging.uploader import File, Sender

_REPORT_SECONDS = 0.2
# How many of the results that could not be uploaded are named.
_NAMED = 1000


def stage_out(
    request: dict[str, Any], emit: Emit, write: Callable[[Mapping[str, Any]], None]
) -> dict[str, Any]:
    """Upload files below one prefix, several at once; one that fails doesn't hold up the rest.

    `request`: uri, node (its name below that), path_style, directory, list (a file of names
    in it, each with a NUL behind it), stored (the file to which uploaded files are appended, a line
    {"name", "size", "sha256"} each; what is in it isn't sent again), own (paths of those that are
    elsewhere, by name), afresh (remove an older manifest first), patient (wait for credentials).
    Emits {"stored": count} now and then, at the end {"uploaded": {"count", "lost" (counts),
    "failed": [{"name", "what", "cause", "code", "hint"}, the first of them]}}. Then two lines on
    standard input: {"record": what `write` is asked}, answered by {"recorded": true} as
    soon as run.json can be read, which is uploaded; {"page": a path or null}, which may fail, and
    after which the manifest is uploaded, if there is to be one.
    """
    uri = S3Uri(**request["uri"])
    patient = request.get("patient", True)
    storage = Storage(emit, path_style=request["path_style"], patient=patient)
    if request.get("afresh"):
        storage.remove(uri / "manifest.json")
    emit({"uploaded": _upload(storage, uri / request["node"], request, emit)})
    asked = json.loads(sys.stdin.readline() or "{}").get("record")
    if asked is None:
        return {}
    write(asked)
    emit({"recorded": True})
    _put_document(storage, uri / RUN, asked["run"])
    page = json.loads(sys.stdin.readline() or "{}").get("page")
    if page:
        _put_page(storage, uri / "report.html", page, emit)
    if asked["manifest"]:
        _put_document(storage, uri / MANIFEST, asked["manifest"])
    return {}


def _put_document(storage: Storage, uri: S3Uri, path: str) -> None:
    if os.path.getsize(path) <= SMALL:
        storage.put(Path(path).read_bytes(), uri)
        return
    with open(path, "rb") as file:
        storage.put_file(file, uri, lambda count: None)


def _put_page(storage: Storage, uri: S3Uri, path: str, emit: Emit) -> None:
    """Write the page so that a browser will show it; the record is complete without it."""
    try:
        text = Path(path).read_bytes()
        storage.put(text, uri, content_type="text/html; charset=utf-8")
    except AgentError as error:
        emit({"log": "warning", "event": "report_not_uploaded", **error.fields()})


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _upload(storage: Storage, uri: S3Uri, request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    directory, own = request["directory"], request["own"]

    def path_of(name: str) -> str:
        return own.get(name) or os.path.join(directory, name)

    names = {os.fsdecode(name) for name in Path(request["list"]).read_bytes().split(b"\0") if name}
    earlier = {one["name"] for one in result_list.files(request["stored"])}
    names -= earlier
    failed: list[File] = []
    count, lost, reported_at = len(earlier), 0, time.monotonic()
    with open(request["stored"], "a", encoding="utf-8") as list_:
        list_.write("\n")  # the last line of an earlier try may be cut short

        def stored(file: File) -> None:
            nonlocal count, reported_at
            count += 1
            list_.write(json.dumps(file) + "\n")
            if time.monotonic() - reported_at > _REPORT_SECONDS:
                list_.flush()
                emit({"stored": count})
                reported_at = time.monotonic()

        def fail(file: File) -> None:
            nonlocal lost
            lost += 1
            if lost <= _NAMED:
                failed.append(file)

        Sender(
            storage,
            uri,
            path_of,
            many=len(names) >= MANY,
            size=sum(_size(path_of(name)) for name in names),
            emit=emit,
            stored=stored,
            failed=fail,
        ).send(sorted(names))
    result_list.sort(request["stored"])
    return {"count": count, "lost": lost, "failed": failed}
