"""Find the slowest phase of a run, and what would help: one rule for each phase."""

from __future__ import annotations

from collections.abc import Callable

from agent.core import model
from agent.core.units import duration, rate, share, size, three_digits
from agent.report.reader import Machine, Run

# Below these a phase isn't mentioned beside the slowest; then what counts as idle, full or late.
_MIN_SECONDS, _MIN_SHARE = 5.0, 0.1
_IDLE, _BUSY, _FULL, _LATE, _UNEVEN = 0.5, 0.85, 0.85, 0.5, 2.0


def advice(run: Run) -> list[str]:
    """Return a sentence on the slowest phase, and one on the next if the application was it."""
    slow = sorted(run.phases, key=lambda phase: -_seconds(run, phase))
    if not slow:
        return []
    chosen = slow[:1]
    if chosen == [model.RUN] and len(slow) > 1:
        seconds = _seconds(run, slow[1])
        if seconds >= _MIN_SECONDS and seconds >= _MIN_SHARE * run.seconds:
            chosen.append(slow[1])
    return [f"{_opening(run, phase)}: {_RULES[phase](run)}." for phase in chosen]


def _seconds(run: Run, phase: str) -> float:
    """Return a phase's time on the main node, which waits for all others; else the longest."""
    main = run.main_node
    return (main.seconds(phase) if main else 0.0) or run.phases[phase][-1].seconds


def _opening(run: Run, phase: str) -> str:
    seconds = _seconds(run, phase)
    named = "The application (run)" if phase == model.RUN else phase.capitalize()
    return f"{named} took {duration(seconds)}, {share(seconds, run.seconds)} of the time"


def _slowest(run: Run, phase: str) -> Machine:
    return run.phases[phase][-1].node


def _fetch(run: Run) -> str:
    node = _slowest(run, model.FETCH)
    if not node.fetched_bytes:
        return "there was nothing to fetch, so S3 was slow to answer; look at the region"
    seconds = node.seconds(model.FETCH)
    return (
        f"{size(node.fetched_bytes)} fetched at {rate(node.fetched_bytes / max(seconds, 1e-3))} on "
        f"{node.name}; smaller archives, or a bucket in the region of the nodes, would help"
    )


def _unpack(run: Run) -> str:
    node = _slowest(run, model.UNPACK)
    return (
        f"{size(node.fetched_bytes)} of archives were unpacked and installed on {node.name}; a "
        "lower level of 7-Zip (-mx1), less in them, or an image that has it all would help"
    )


def _join(run: Run) -> str:
    seconds = _seconds(run, model.JOIN)
    last = max(run.nodes, key=lambda node: _start(node, model.JOIN))
    first = min(run.nodes, key=lambda node: node.started)
    late = last.started - first.started
    if run.missing:
        return f"{', '.join(run.missing[:3])} sent no record; look at the log of that node"
    if late >= _LATE * seconds:
        return (
            f"{last.name} began {duration(late)} after {first.name}; a smaller image, or nodes "
            "that are kept ready, would help"
        )
    before = _start(last, model.JOIN) - last.started
    if before >= _LATE * seconds and last is not run.main_node:
        return f"{last.name} joined last: it fetched and unpacked for {duration(before)}"
    return f"{last.name} joined last; look at its log and at the network between the nodes"


def _start(node: Machine, phase: str) -> float:
    return next((one.start for one in node.stages if one.phase == phase), node.started)


def _run(run: Run) -> str:
    nodes = run.sampled
    if not nodes:
        return "it exited before its use of the node could be sampled"
    return _memory(nodes) or _processors(nodes)


def _memory(nodes: list[Machine]) -> str:
    """Return what to do if memory was near its limit on any node, else nothing."""

    def full(node: Machine) -> float:
        return node.peaks.get("resident_bytes", 0.0) / node.limits.get(
            "resident_bytes", float("inf")
        )

    node = max(nodes, key=full)
    if full(node) < _FULL:
        return ""
    peak, limit = node.peaks["resident_bytes"], node.limits["resident_bytes"]
    return (
        f"memory reached {size(peak)} of {size(limit)} ({share(peak, limit)}) on {node.name}; "
        "nodes with more of it, or fewer slots, would be safe"
    )


def _processors(nodes: list[Machine]) -> str:
    known = [node for node in nodes if node.limits.get("processors")]
    if not known:
        return "how many processors it could use is not in the record"
    used = {node.name: node.mean("processors") / node.limits["processors"] for node in known}
    idlest, busiest = min(used, key=used.__getitem__), max(used, key=used.__getitem__)
    mean, limit = sum(used.values()) / len(used), known[0].limits["processors"]
    if used[busiest] >= _IDLE and used[busiest] >= _UNEVEN * used[idlest]:
        return (
            f"the work was uneven, processors were busy for {share(used[busiest], 1)} on {busiest} "
            f"and {share(used[idlest], 1)} on {idlest}; spread it, or take fewer nodes"
        )
    busy = f"{three_digits(mean * limit)} of {limit:.0f} processors a node were busy"
    if mean >= _BUSY:
        return f"{busy} ({share(mean, 1)}); more nodes or more processors would help"
    if mean < _IDLE:
        return f"{busy} ({share(mean, 1)}); {_idle(nodes)}"
    return f"{busy} ({share(mean, 1)}); it waits at times, see the curves"


def _idle(nodes: list[Machine]) -> str:
    """Return what to do about processors that had nothing to do."""
    moved = [
        ("the disk", "read_bytes_per_second", "written_bytes_per_second"),
        ("the network", "received_bytes_per_second", "sent_bytes_per_second"),
    ]
    for name, one, other in moved:
        node = max(nodes, key=lambda node: node.mean(one) + node.mean(other))
        mean = node.mean(one) + node.mean(other)
        if mean >= 50 << 20:
            return f"it waits for {name} ({rate(mean)} on {node.name}), a faster one would help"
    return "fewer or smaller nodes would do, or more slots if it can use them"


def _release(run: Run) -> str:
    node = _slowest(run, model.UPLOAD if model.UPLOAD in run.phases else model.RELEASE)
    return (
        f"the end is announced to every node; {node.name} was last, look at its log and the network"
    )


def _upload(run: Run) -> str:
    node = max(run.nodes, key=lambda node: node.uploaded_bytes)
    if not node.uploaded_bytes:
        return "there was nothing to upload, so S3 or a node was slow to answer"
    seconds = max(node.seconds(model.UPLOAD), 1e-3)
    name, largest = run.files[0]
    return (
        f"{size(node.uploaded_bytes)} uploaded at {rate(node.uploaded_bytes / seconds)} from "
        f"{node.name}; exclude what is not a result (ARCHITRAVE_OUTPUT_EXCLUDE), the largest "
        f"is {name} with {size(largest)}"
    )


_RULES: dict[str, Callable[[Run], str]] = {
    model.FETCH: _fetch,
    model.UNPACK: _unpack,
    model.JOIN: _join,
    model.RUN: _run,
    model.RELEASE: _release,
    model.UPLOAD: _upload,
}
