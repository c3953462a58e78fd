"""SIGTERM and SIGINT in every phase, to every kind of node; orphans by the thousand."""

import contextlib
import signal
import sys
import time

import psutil
import pytest

from tests.faults.harness import kill_helper
from tests.support.basics import read_line, slow, until
from tests.support.clusters import ranks, run_json

# Batch kills after 30 s; the agents are out before.
STOP_SECONDS = 28


def signalled(running, indexes, number):
    for index in indexes:
        running.nodes[index].signal(number)


@pytest.mark.cell("signals.end")
@pytest.mark.parametrize(
    ("count", "targets", "phase"),
    [
        *((1, [0], phase) for phase in ("fetch", "unpack", "run", "upload")),
        *((2, [0], phase) for phase in ("join", "release")),
        *((2, [1], phase) for phase in ("join", "run")),
        (3, [0, 1, 2], "run"),
        *(slow(2, [0], phase) for phase in ("fetch", "run", "upload")),
        *(slow(2, [1], phase) for phase in ("unpack", "release", "upload")),
        *(slow(3, [0, 1, 2], phase) for phase in ("fetch", "join", "upload")),
    ],
    ids=str,
)
def test_stopped(cluster, phase, count, targets):
    """A signalled node exits in time with 143, the others with it or with 75.

    A signal that comes when all is done and kept changes nothing: then 0, with a manifest.
    """
    # A node that gets SIGTERM while the nodes meet never joins; the others need not wait for long.
    limit = "3" if phase in ("fetch", "unpack", "join") else "30"
    env = {"ARCHITRAVE_HEARTBEAT_SECONDS": "0.5", "ARCHITRAVE_JOIN_TIMEOUT_SECONDS": limit}
    env["ARCHITRAVE_SLOTS"] = "1"
    params = "exit 0" if phase in ("release", "upload") else "hold"
    with cluster(None, params, nodes=count, env=env) as running:
        running.wait_phase(targets[0], phase)
        signalled(running, targets, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        codes = [running.wait_end(i, deadline - time.monotonic()) for i in range(count)]
        result = running.wait()
        assert leftovers(running) == []
    late = {0} if (result.results / "manifest.json").exists() and params == "exit 0" else set()
    for index, code in enumerate(codes):
        assert code in ({143} if index in targets else {143, 75}) | late
    if late:
        assert len(ranks(result)) == count and run_json(result)["exit"]["code"] in codes
    started = {line for node in result.nodes for line in node.tail if line.startswith("ready ")}
    kept = {f"ready {one['rank']} of {one['size']}" for one in ranks(result)}
    assert started <= kept


@pytest.mark.cell("signals.end")
@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "helper-killed"])
def test_stopped_while_it_claims_its_directory(cluster, killed):
    """What a helper has made goes too when the agent never learned how the helper ended."""
    env = {"ARCHITRAVE_HEARTBEAT_SECONDS": "0.5", "ARCHITRAVE_JOIN_TIMEOUT_SECONDS": "60"}
    with cluster(None, "hold", nodes=2, env=env) as running:
        node = running.nodes[1]
        running.wait_phase(1, "join")
        end = time.monotonic() + 60
        while not list((node.root / "tmp/output").glob(".architrave-owner-*")):
            assert time.monotonic() < end
        node.freeze()
        if killed:
            kill_helper(node)  # which may be done by now
        node.signal(signal.SIGTERM)
        node.thaw()
        assert running.wait_end(1, STOP_SECONDS) == 143
        running.wait()
        assert leftovers(running) == []


def leftovers(running):
    """Return what the agents left below their roots but results and logs."""
    found = []
    for node in running.nodes.values():
        for name in ("tmp/batch", "opt/program", "opt/ssh_host_rsa_key"):
            found += [node.root / name] if (node.root / name).exists() else []
        found += node.root.rglob(".architrave*")
        with contextlib.suppress(OSError):
            found += list((node.root / "opt").iterdir())
    return found


@pytest.mark.cell("signals.end")
@pytest.mark.parametrize("targets", [[1], [0, 1]], ids=str)
def test_interrupted(cluster, targets):
    """SIGINT is 130 for all: the job ends, its results are kept."""
    with cluster(None, "hold", nodes=2, env={"ARCHITRAVE_HEARTBEAT_SECONDS": "0.5"}) as running:
        until(lambda: running.states[0].stdout.count(b"ready ") == 2, 60)
        signalled(running, targets, signal.SIGINT)
        codes = {running.wait_end(index, STOP_SECONDS) for index in range(2)}
        result = running.wait()
    assert codes == {130}
    assert len(ranks(result)) == 2


@pytest.mark.cell("signals.orphans")
def test_fifteen_hundred_orphans(agent):
    """They become no zombies: all are reaped while the command goes on."""
    code = (
        "import os, signal, sys, time\n"
        "reader, writer = os.pipe()\n"
        "middle = os.fork()\n"
        "if middle == 0:\n"
        "    for _ in range(1500):\n"
        "        if os.fork() == 0:\n"
        "            os.close(writer); os.read(reader, 1); os._exit(0)\n"
        "    os._exit(0)\n"
        "os.waitpid(middle, 0)\n"
        "print('born', flush=True)\n"
        "input()\n"
        "os.close(writer)\n"  # all of them end at once
        "signal.pause()\n"
    )
    process = agent("exec", "--", sys.executable, "-c", code, stdin=-1)
    assert read_line(process) == "born\n"
    assert len(children(process.pid)) > 1500
    before = processor_seconds(process.pid)
    process.stdin.write("\n")
    process.stdin.flush()
    until(lambda: len(children(process.pid)) == 1, 20)
    # Its own time: how long it waits for a processor is the machine's affair.
    assert processor_seconds(process.pid) - before <= 0.1
    process.terminate()
    assert process.wait(20) == 143


def processor_seconds(pid):
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()
