"""Keep the logs of all nodes of a job, each line marked with its node, and show them again."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TextIO

from inotify_simple import INotify, flags

from agent.core.errors import NO_OBJECT, AgentError
from agent.core.events import message
from agent.tools.cluster.states import NodeState
from agent.tools.cluster.view import Plain, text_of

NAME = "job.log"
# Fields that every record has, and those that a line shows in columns.
_SHOWN = ("event", "message", "level", "timestamp", "job", "attempt", "node", "phase")
_LOOK_MILLISECONDS = 1000


class NodeLog(Plain):
    """Every record and every line of output, in the order in which they arrived.

    The file is locked as long as the job runs: a follower sees by that when to stop.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", errors="replace")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        super().__init__(self._file)

    def record(self, node: NodeState, record: dict[str, object]) -> None:
        """Write a record: phase, event, fields; its level if it is a warning or an error."""
        level = record.get("level")
        trouble = f"{level}: " if level in ("warning", "error") else ""
        shown = {*_SHOWN, *message(str(record["event"]), record)[1]}
        fields = " ".join(f"{k}={v}" for k, v in record.items() if k not in shown)
        text = f"{record.get('phase', '-')}: {trouble}{text_of(record)} {fields}".rstrip()
        self._print(node.name, text)

    def close(self) -> None:
        """Close the file: the job is over."""
        self._file.close()


def latest(results: Path) -> Path:
    """Return the results directory of the job that began last; raise AgentError (66)."""
    found = sorted(results.glob(f"*/logs/{NAME}"), key=lambda path: path.parent.stat().st_mtime)
    if not found:
        hint = "run it in the directory of architrave local run, or use --results"
        raise AgentError(f"read {results}", "no job logs in it", code=NO_OBJECT, hint=hint)
    return found[-1].parent.parent


def show(
    results: Path, nodes: Collection[str], *, follow: bool = False, out: TextIO | None = None
) -> None:
    """Print the logs of the nodes with these names, all for none; raise AgentError (66)."""
    out = out or sys.stdout
    path = results / "logs" / NAME
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except OSError as error:
        hint = "use the directory that architrave local run has printed"
        raise AgentError(f"read {path}", "no such file", code=NO_OBJECT, hint=hint) from error
    with file:
        for line in _lines(file, path) if follow else file:
            if not nodes or line[_NODE].strip() in nodes:
                out.write(line)
                out.flush()


# The column of a node's name in Plain's lines; a longer name ends at the next two blanks.
_NODE = slice(11, 21)


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    """Yield whole lines until the job is over."""
    with INotify() as events:
        events.add_watch(path, flags.MODIFY | flags.CLOSE_WRITE)
        rest = ""
        while True:
            over = _is_over(file)  # asked first, so that nothing is written after the last look
            for line in file:
                rest += line
                if rest.endswith("\n"):
                    yield rest
                    rest = ""
            if over:
                return
            events.read(timeout=_LOOK_MILLISECONDS)


def _is_over(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return True
