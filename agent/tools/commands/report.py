"""The command `architrave report`: make the page, or the text, of one run or two."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from agent.core.errors import BAD_ARCHIVE, NO_OBJECT, NOT_FOUND, AgentError, os_reason
from agent.core.s3_uri import S3Uri, has_own_endpoint
from agent.report import page
from agent.report import text as report_text
from agent.report.reader import Run, read
from agent.tools.cluster import node_log
from agent.tools.cluster.job import DEFAULT_RESULTS
from agent.tools.commands.options import Commands, command, write

_RECORD = "run.json"
_EXAMPLES = """\
  architrave report                   # of the latest architrave local run here
  architrave report s3://bucket/output/JOB-ID/attempt-1 --to report.html
  architrave report run.json --text
  architrave report first/run.json second/run.json --to compared.html
RECORD: a directory with run.json, that file, or s3://bucket/prefix of it.
"""


def add(commands: Commands) -> None:
    """Add `report`."""
    summary = "make the report of a run from its run.json, or compare two runs"
    report = command(commands, "report", summary, _EXAMPLES, _report)
    report.add_argument("source", metavar="RECORD", nargs="?", help="where run.json is")
    report.add_argument("other", metavar="OTHER", nargs="?", help="the run to compare it with")
    report.add_argument("--text", action="store_true", help="text for terminals, not HTML")
    report.add_argument(
        "--to",
        metavar="FILE",
        type=Path,
        help="output file (report.html beside run.json; here for s3:// or two runs; "
        "--text: standard output)",
    )


def _report(options: argparse.Namespace) -> int:
    options.source = options.source or str(node_log.latest(DEFAULT_RESULTS))
    runs = [_run(source) for source in (options.source, options.other) if source is not None]
    if options.text:
        made = report_text.comparison(*runs) if options.other else report_text.text(*runs)
        if options.to is None:
            sys.stdout.write(made)
            return 0
    else:
        made = _html(runs)
    path = options.to or _beside(options)
    write(path, made)
    print(path)
    return 0


def _html(runs: list[Run]) -> str:
    try:
        page.load()
    except ImportError as error:
        hint = f"pip install {error.name}"
        cause = f"the package {error.name} is missing"
        raise AgentError("make the page", cause, code=NOT_FOUND, hint=hint) from error
    return page.comparison(*runs) if len(runs) > 1 else page.page(*runs)


def _beside(options: argparse.Namespace) -> Path:
    """Return the default path of the page."""
    if options.other is not None or options.source.startswith("s3://"):
        return Path("report.html")
    return _record_file(options.source).with_name("report.html")


def _record_file(source: str) -> Path:
    path = Path(source)
    return path / _RECORD if path.is_dir() else path


def _run(source: str) -> Run:
    """Read a record from a path or URI; raise AgentError (65, 66, 69 or 77)."""
    content = _from_s3(source) if source.startswith("s3://") else _from_file(source)
    try:
        record = json.loads(content)
    except ValueError as error:
        hint = "name run.json, or its directory"
        cause = "not a JSON record (run.json)"
        raise AgentError(f"read {source}", cause, code=BAD_ARCHIVE, hint=hint) from error
    return read(record)


def _from_file(source: str) -> bytes:
    path = _record_file(source)
    try:
        return path.read_bytes()
    except OSError as error:
        hint = "name a directory with run.json; a lost job may have none"
        raise AgentError(f"read {path}", os_reason(error), code=NO_OBJECT, hint=hint) from error


def _from_s3(source: str) -> bytes:
    from agent.staging.s3 import Storage

    found = S3Uri.parse(source, "RECORD")
    if not found.key.endswith(".json"):
        found /= _RECORD

    def quiet(message: dict[str, Any]) -> None:
        """Drop what a helper would log."""

    return Storage(quiet, path_style=has_own_endpoint(os.environ)).read(found)
