"""Let the doctors of several nodes join as a job's nodes do, and check every pair.

The job is the real one, below a root directory of the doctor's own; its application is `pairs`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent import __version__
from agent.core import model
from agent.core.errors import BAD_SETTINGS, TRY_AGAIN
from agent.core.model import AGENT, NodeFiles, Outcome, Topology
from agent.core.settings import Settings
from agent.doctor.context import Context
from agent.doctor.finding import FAIL, PASS, WARN, Finding
from agent.engine.console import LineQueue, Outlet
from agent.engine.log import Log
from agent.engine.loop import OWN_FAULTS, Loop
from agent.engine.process import Children
from agent.job import lifecycle
from agent.job.helper_calls import HelperCalls
from agent.job.lifecycle import Role
from agent.job.main_node import MainNode
from agent.job.parts import Parts
from agent.job.ssh_access import SshAccess, config_file
from agent.job.supervisor import Supervisor
from agent.job.worker import Worker
from agent.report.writer import load

_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pairs.py")
_RESULT = "pairs.json"
_KEYS_SECONDS = 60.0
# A node's own limit, and a second more for each of the others.
_VISIT_SECONDS = 120.0
_CLOCK_SECONDS = 2.0
_ALL_PORTS = "let the nodes reach each other on all ports: security group, firewall"
_SAME_IMAGE = "start every node from the same image"


def _make_keys(
    supervisor: Supervisor, helpers: HelperCalls, ssh: SshAccess
) -> list[dict[str, Any]]:
    """Make this attempt's keys; the one they are derived from is in this root's /opt already."""
    supervisor.begin_phase(model.FETCH)
    request = {"identity": ssh.identity(), "private": None, "deps": None, "probe": None}
    helpers.call("stage_in", "make the keys", request, _KEYS_SECONDS, code=TRY_AGAIN)
    return []


class _Verdicts:
    """The main node's judgement: `findings` are what the nodes have reported, if all have `met`."""

    def __init__(self, supervisor: Supervisor, own: Sequence[Finding]) -> None:
        self.findings: Sequence[Finding] = ()
        self.met = False
        self._supervisor = supervisor
        self._own = own

    def judge(self, nodes: Mapping[int, NodeFiles]) -> None:
        """Judge what the nodes have reported; every node exits with the code of the first FAIL."""
        verdict = self._supervisor.verdict
        reports = {index: load(node)["doctor"] for index, node in nodes.items()}
        self.met = not verdict.code
        self.findings = judge(self._supervisor.settings.topology, reports)
        failed = [one for one in (*self._own, *self.findings) if one.verdict == FAIL]
        if self.met and failed:
            first = failed[0]
            cause = f"{first.name}: {first.what}"
            verdict.decide(Outcome(first.code, AGENT, cause=cause, hint=first.hint))


def meet(context: Context, own: Sequence[Finding], *, logging: bool) -> list[Finding]:
    """Meet the other nodes; return what is found there.

    `own` is what was found on this node. Signals are the job's from here on.
    """
    settings = _settings(context)
    loop = Loop(Children(), not_ours=OWN_FAULTS)
    queue = LineQueue(Outlet(2), loop)
    write = queue.put if logging else _discard
    log = Log(write, level=settings.log.level)
    topology = settings.topology
    log.context = {"job": topology.job, "attempt": topology.attempt, "node": topology.index}
    account = {
        "version": __version__,
        "machine": os.uname().machine,
        "mpirun": context.mpirun,
        "findings": [one.to_json() for one in own if one.verdict in (WARN, FAIL)],
    }

    def more() -> dict[str, Any]:
        """Return what else this node records: itself, and what it has seen of the others."""
        try:
            with open(os.path.join(settings.output_dir, _RESULT), encoding="utf-8") as file:
                pairs = json.load(file)
        except OSError:
            pairs = []
        return {"doctor": {**account, "pairs": pairs}}

    supervisor = Supervisor(settings, loop, log)
    verdicts = _Verdicts(supervisor, own)
    # Standard output is the report's.
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    parts = Parts(supervisor, outlet=Outlet(null), page=False, more=more)
    os.close(null)
    role: Role
    if topology.is_main:
        role = MainNode(parts, stage=_make_keys, on_records=verdicts.judge)
    else:
        role = Worker(parts, stage=_make_keys)
    lifecycle.run(role, write_exit_code=False)
    loop.wait(lambda: queue.empty, loop.clock() + 1.0)
    if verdicts.met:
        return list(verdicts.findings)
    outcome = supervisor.verdict.outcome
    if outcome.code:
        failed = Finding(FAIL, outcome.cause, outcome.hint, outcome.code, "nodes")
        return [failed, *verdicts.findings]
    return [Finding(PASS, "all have met; the main node reports what they found", name="nodes")]


def _discard(data: bytes) -> None:
    pass


def _settings(context: Context) -> Settings:
    """Return the settings of the doctor's job: the node's own, with another application."""
    settings, topology = context.settings, context.settings.topology
    output_dir = os.path.join(context.scratch, "output")
    root = replace(settings, root=context.scratch)
    request = {
        "indexes": [topology.main_index, *topology.workers],
        "job": topology.job,
        "attempt": topology.attempt,
        "config": config_file(root),
        "result": os.path.join(output_dir, _RESULT),
    }
    return replace(
        root,
        command=(sys.executable, "-I", _PROGRAM, json.dumps(request)),
        launch=replace(settings.launch, launcher="each", workdir=output_dir),
        output_dir=output_dir,
        private=None,
        deps=None,
        output=None,
        limits=replace(settings.limits, timeout=_VISIT_SECONDS + topology.count, hold=0.0),
    )


def judge(topology: Topology, answers: Mapping[int, Mapping[str, Any]]) -> list[Finding]:
    """Return the main node's findings from what all nodes have reported, by index."""
    found = [
        replace(Finding(**one), name=topology.name(index), what=f"{one['name']}: {one['what']}")
        for index, node in sorted(answers.items())
        if index != topology.main_index
        for one in node["findings"]
    ]
    found += [_agreement(topology, answers, what) for what in ("version", "machine", "mpirun")]
    return [*found, _clocks(topology, answers), *_pairs(topology, answers)]


def _agreement(topology: Topology, answers: Mapping[int, Mapping[str, Any]], what: str) -> Finding:
    values: dict[str, list[str]] = {}
    for index, node in sorted(answers.items()):
        values.setdefault(node[what] or "none", []).append(topology.name(index))
    if len(values) == 1:
        return Finding(PASS, f"all {len(answers)} nodes: {next(iter(values))}", name=what)
    several = "; ".join(f"{value} on {', '.join(names)}" for value, names in values.items())
    return Finding(FAIL, f"the nodes differ: {several}", _SAME_IMAGE, BAD_SETTINGS, what)


def _clocks(topology: Topology, answers: Mapping[int, Mapping[str, Any]]) -> Finding:
    offsets = [
        (abs(pair["clock"]), topology.name(index), topology.name(pair["to"]))
        for index, node in answers.items()
        for pair in node["pairs"]
    ]
    largest, here, there = max(offsets, default=(0.0, "", ""))
    if largest > _CLOCK_SECONDS:
        what = f"the clocks of {here} and {there} differ by {largest:.0f} s"
        return Finding(WARN, what, "let chronyd or the hypervisor set the clocks", name="clocks")
    return Finding(PASS, f"all nodes are within {_CLOCK_SECONDS:.0f} s", name="clocks")


def _pairs(topology: Topology, answers: Mapping[int, Mapping[str, Any]]) -> list[Finding]:
    """Return the pairs that can't reach each other, and how many can."""
    failed, reached = [], 0
    for index, node in sorted(answers.items()):
        here = topology.name(index)
        if not node["pairs"]:
            what, hint = f"{here} has not reported what it reaches", f"see the log of {here}"
            failed.append(Finding(FAIL, what, hint, TRY_AGAIN, "pairs"))
        for pair in node["pairs"]:
            causes = "; ".join(f"{kind}: {pair[kind]}" for kind in ("ssh", "tcp") if pair[kind])
            reached += not causes
            if causes:
                what = f"{here} cannot reach {topology.name(pair['to'])}: {causes}"
                failed.append(Finding(FAIL, what, _ALL_PORTS, TRY_AGAIN, "pairs"))
    whole = topology.count * (topology.count - 1)
    if reached == whole:
        return [Finding(PASS, f"{whole} of {whole} reach each other by ssh and TCP", name="pairs")]
    what = f"{reached} of {whole} reach each other by ssh and TCP"
    return [*failed, Finding(WARN, what, _ALL_PORTS, name="pairs")]
