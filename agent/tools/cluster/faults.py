"""Parse the faults that the user wants: a node is killed, cut off, or starts late."""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.errors import USAGE, AgentError
from agent.core.model import PHASES

KILL, CUT, DELAY = "kill", "cut", "delay"


@dataclass(frozen=True)
class Fault:
    """One fault of one node: at the start of a phase, or `seconds` late."""

    kind: str
    index: int
    phase: str = ""
    seconds: float = 0.0


def parse(kind: str, text: str, nodes: int, main_index: int) -> Fault:
    """Read `NODE@PHASE` (kill, cut) or `NODE=SECONDS` (delay); raise AgentError (64)."""
    node, separator, rest = text.rpartition("=" if kind == DELAY else "@")
    example = "worker:1=5" if kind == DELAY else "worker:1@run"
    if not separator:
        raise _refused(kind, text, "no node is named", f"for example --{kind} {example}")
    index = _index(kind, text, node, nodes, main_index)
    if kind == DELAY:
        return Fault(kind, index, seconds=_seconds(text, rest))
    if rest not in PHASES:
        raise _refused(kind, text, f"unknown phase {rest!r}", f"phases: {', '.join(PHASES)}")
    return Fault(kind, index, phase=rest)


def _index(kind: str, text: str, node: str, nodes: int, main_index: int) -> int:
    if node == "main":
        return main_index
    number = node.removeprefix("worker:")
    if not (number.isascii() and number.isdigit()) or int(number) >= nodes:
        hint = f"nodes: main, worker:1 or an index from 0 to {nodes - 1}"
        raise _refused(kind, text, f"unknown node {node!r}", hint)
    if number != node and int(number) == main_index:
        raise _refused(kind, text, f"node {number} is the main one", f"use main{text[len(node) :]}")
    return int(number)


def _seconds(text: str, rest: str) -> float:
    try:
        value = float(rest)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        hint = "for example --delay worker:1=5"
        raise _refused(DELAY, text, f"{rest!r} is not a number of seconds", hint)
    return value


def _refused(kind: str, text: str, cause: str, hint: str) -> AgentError:
    return AgentError(f"use --{kind} {text}", cause, code=USAGE, hint=hint)
