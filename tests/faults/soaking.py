"""Run whole jobs with a fault drawn by a seed, and keep what misses one of the five checks.

tests/faults/soak --runs 300 --seed 1: run k has the seed 1+k, so that `--runs 1 --seed 1+k` runs
it again. Two runs with one seed have the same job and fault; what the machine does meanwhile is its
own.
"""

from __future__ import annotations

import argparse
import collections
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from agent.core.errors import AgentError
from agent.tools.cluster.cluster import Cluster, Result
from agent.tools.cluster.faults import DELAY, Fault
from tests.faults import harness
from tests.faults.drawn import FAULTS, LONGEST, SLOW_HEARTBEAT, Action, Draw, Running, wait
from tests.support.basics import IMAGE, engine_answers, make_keys
from tests.support.clusters import described, make_private
from tests.support.s3proxy import FailingS3

SINGLE = ["fetch", "unpack", "run", "upload"]
TOGETHER = ["fetch", "unpack", "join", "run", "release", "upload"]
# What the application does, and the code that it then has of its own.
APPLICATIONS: list[tuple[str, int | None]] = [
    *((f"exit {code}", code) for code in (0, 0, 0, 1, 7, 64, 75, 137, 255)),
    *((f"last {seconds} {code}", code) for seconds in (1, 2, 4) for code in (0, 0, 3)),
    *((f"deaf 1 {code}", code) for code in (0, 5)),
    ("deaf 600 5", None),
    *((f"die {number}", 128 + number) for number in (6, 9, 11)),
    ("daemon 0", 0),
    ("daemon 9", 9),
    ("loud 20 0", 0),
    ("hold", None),
]
LAUNCHERS = ["mpirun", "mpirun", "mpirun", "each", "direct"]
S3_FAULTS: dict[str, dict[str, Any]] = {
    "500 twice": {"status": 500, "code": "InternalError", "times": 1},
    "reset": {"reset": True, "times": 1},
    "truncated": {"truncate": True, "times": 1},
    "500": {"status": 500, "code": "InternalError"},
    "403": {"status": 403, "code": "AccessDenied"},
}


def draw(seed: int, *, containers: bool) -> Draw:
    """Return the job and the fault of a seed."""
    chance = random.Random(seed)
    nodes = chance.choice([1, 2, 3, 3, 4])
    contained = chance.random() < 0.25 and containers
    application, code = chance.choice(APPLICATIONS)
    fault = chance.choice([name for name, one in FAULTS.items() if one.fits(nodes, contained)])
    if code is None and not FAULTS[fault].ends:
        application, code = "last 3 0", 0
    if fault == "agent killed" and application.startswith("daemon"):
        # Only the end of a container ends what was a daemon of the dead agent's.
        fault = "node killed"
    phase = chance.choice(SINGLE if nodes == 1 else TOGETHER)
    if code is None and phase in ("release", "upload"):
        phase = "run"  # it comes to no other before the fault
    detail = ""
    if fault == "s3":
        detail = chance.choice(list(S3_FAULTS))
    return Draw(
        seed=seed,
        nodes=nodes,
        main=chance.randrange(nodes),
        contained=contained,
        launcher=chance.choice(LAUNCHERS),
        application=application,
        code=code,
        fault=fault,
        node=chance.randrange(nodes),
        phase=phase,
        moment=round(chance.choice([0.0, chance.uniform(0, 0.5), chance.uniform(0, 2)]), 3),
        detail=detail,
    )


def run(drawn: Draw, private: Path, results: Path) -> None:
    """Run a draw; raise AssertionError or TimeoutError for a check that it misses."""
    fault = FAULTS[drawn.fault]
    env = harness.env(ARCHITRAVE_LAUNCHER=drawn.launcher, ARCHITRAVE_SLOTS="1")
    env["ARCHITRAVE_JOIN_TIMEOUT_SECONDS"] = "30" if drawn.fault == "late" else "8"
    faults: tuple[Fault, ...] = ()
    if drawn.fault == "cut briefly":
        env |= {"ARCHITRAVE_JOIN_TIMEOUT_SECONDS": "30"}
        env |= {"ARCHITRAVE_HEARTBEAT_SECONDS": str(SLOW_HEARTBEAT)}
        del env["AWS_MAX_ATTEMPTS"]  # S3 is cut off too: two tries are over before that is
    if drawn.fault == "time limit":
        env["ARCHITRAVE_TIMEOUT_SECONDS"] = "1.5"
    if drawn.fault in ("late", "never starts"):
        seconds = 1 + drawn.moment if drawn.fault == "late" else 1000
        faults = (Fault(DELAY, drawn.node, seconds=seconds),)
    with FailingS3() as proxy:
        node_env = {}
        if drawn.fault == "s3":
            node_env[drawn.node] = {"AWS_ENDPOINT_URL_S3": proxy.endpoint}
            method, key = random.Random(drawn.seed).choice(
                [("GET", "private.7z"), ("PUT", "time.log"), ("PUT", r"rank-\d.json")]
            )
            proxy.rule(method, key, **S3_FAULTS[drawn.detail])
        job = described(
            private=private,
            results=results,
            image=IMAGE if drawn.contained else None,
            params=drawn.application,
            nodes=drawn.nodes,
            main_index=drawn.main,
            env=env,
            node_env=node_env,
            faults=faults,
            timeout=120,
        )
        with Cluster(job) as cluster:
            proxy.upstream = cluster.s3.endpoint
            running = Running(drawn, cluster, proxy)
            faulty = inflict(running)
            check(running, fault, faulty)


def inflict(running: Running) -> bool:
    """Do the fault at its phase and moment; return whether the node still ran then."""
    drawn, cluster = running.drawn, running.cluster
    if drawn.fault in ("never starts", "late", "none", "time limit", "s3"):
        return drawn.fault == "never starts"
    cluster.wait_phase(drawn.node, drawn.phase)
    wait(drawn.moment)
    if running.has_exited:
        return False
    try:
        FAULTS[drawn.fault].act(running)
    except AgentError:
        # Docker can do nothing to a container that has ended meanwhile.
        cluster.wait_end(drawn.node, harness.BOUND)
        return False
    return FAULTS[drawn.fault].faulty


def check(running: Running, fault: Action, faulty: bool) -> None:
    """Check that all end in time, and then what must hold whatever the fault."""
    drawn, cluster = running.drawn, running.cluster
    seconds = harness.BOUND + LONGEST
    harness.ends(cluster, drawn.others if faulty else range(drawn.nodes), seconds)
    if faulty and drawn.fault != "never starts":
        # One that is cut off waits for S3 as well, and ends all the same.
        harness.ends(cluster, [drawn.node], 90)
        if drawn.fault == "agent killed":
            harness.nothing_goes_on(running.node)
    if drawn.fault == "never starts":
        cluster.stop()
    result = cluster.wait()
    own = {drawn.code} if drawn.code is not None else set()
    if fault.faulty and not faulty:
        own |= fault.codes  # it was injected too late to have its effect
    allowed = own | fault.codes
    if drawn.fault == "cut briefly" and drawn.launcher == "mpirun":
        allowed |= {1}  # it doesn't try twice to connect with a daemon that it is starting
    names = (f"worker {drawn.node}", cluster.states[drawn.node].address, "not joined", "main node")
    harness.check(
        cluster,
        result,
        faulty=drawn.node if faulty else None,
        allowed=allowed,
        named=() if drawn.code == 75 or not faulty else names,
    )
    agree(drawn, result, faulty)


def agree(drawn: Draw, result: Result, faulty: bool) -> None:
    """Check that no node says success where the main node has not."""
    codes = [result.nodes[index].code for index in (drawn.others if faulty else range(drawn.nodes))]
    if 0 in codes and not (faulty and drawn.node == drawn.main):
        assert result.nodes[drawn.main].code == 0, codes


def main() -> int:
    """Run the soak; return 1 if any run missed a check."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--runs", type=int, default=300, help="maximum number of runs (300)")
    parser.add_argument("--seed", type=int, help="the first run's (drawn from the clock)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--no-docker", action="store_true", help="processes only")
    parser.add_argument("--keep", type=Path, default=Path("build/soak"), help="what is missed")
    given = parser.parse_args()
    seed = int(time.time()) if given.seed is None else given.seed
    containers = not given.no_docker and engine_answers()
    print(f"soak: --seed {seed}", "" if containers else "(processes only)", flush=True)
    missed, counts = [], collections.Counter[str]()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        private = make_private(Path(name) / "private", make_keys(Path(name) / "keys"))
        for number in range(given.runs):
            if time.monotonic() - start > 60 * given.minutes:
                break
            drawn = draw(seed + number, containers=containers)
            counts[drawn.fault] += 1
            if not survives(drawn, private, Path(name) / f"run-{number}", given.keep):
                missed.append(drawn.seed)
    print(f"soak: {sum(counts.values())} runs in {time.monotonic() - start:.0f} s:", dict(counts))
    for one in missed:
        print(f"missed: tests/faults/soak --runs 1 --seed {one} (logs in {given.keep}/{one})")
    print(f"{sum(counts.values()) - len(missed)} passed, {len(missed)} failed")
    return bool(missed)


def survives(drawn: Draw, private: Path, results: Path, keep: Path) -> bool:
    """Run a draw and print how it went; keep the logs of a miss."""
    begin = time.monotonic()
    cause = ""
    try:
        run(drawn, private, results)
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        kept = keep / str(drawn.seed)
        shutil.rmtree(kept, ignore_errors=True)
        if results.exists():
            shutil.copytree(results, kept)
        kept.mkdir(parents=True, exist_ok=True)
        (kept / "missed.txt").write_text(f"{drawn}\n\n{traceback.format_exc()}")
    shutil.rmtree(results, ignore_errors=True)
    what = f"{drawn.nodes} {'containers' if drawn.contained else 'processes'}"
    what += f" main {drawn.main}, {drawn.launcher} {drawn.application!r}: {drawn.fault}"
    what += f" {drawn.detail} node {drawn.node} {drawn.phase}+{drawn.moment}"
    seconds = time.monotonic() - begin
    print(f"{drawn.seed}  {seconds:5.1f} s  {'MISSED' if cause else 'ok'}  {what}", flush=True)
    if cause:
        print(f"    {cause[:1000]}", flush=True)
    return not cause


if __name__ == "__main__":
    sys.exit(main())
