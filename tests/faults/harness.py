"""Inject a fault into one node at a phase, and check what must hold for every fault."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time

import psutil

from agent.core.errors import AgentError
from agent.tools.cluster import containers
from agent.tools.cluster.processes import Process
from tests.support.clusters import check_manifest, ranks, run_json

# Five heartbeats are 2.5 s; grace, upload and a busy machine come on top.
HEARTBEAT = 0.5
BOUND = 40.0
# Where the agent's secrets are while it runs.
DIRECTORIES = ("opt", "var/tmp", "tmp/batch")


def env(**more):
    """Return the settings of a cluster that notices losses soon."""
    return {
        "ARCHITRAVE_HEARTBEAT_SECONDS": str(HEARTBEAT),
        "ARCHITRAVE_JOIN_TIMEOUT_SECONDS": "8",
        "ARCHITRAVE_GRACE_SECONDS": "2",
        "AWS_MAX_ATTEMPTS": "2",
    } | more


def ends(running, indexes, seconds=BOUND):
    """Return the codes of nodes that must all exit in time; the first of the five checks."""
    deadline = time.monotonic() + seconds
    return [running.wait_end(index, max(0.1, deadline - time.monotonic())) for index in indexes]


def check(running, result, *, faulty, allowed, named=()):
    """Check codes, results, the line that names the cause, and what is left behind.

    `faulty` is the node that is excused, None if none is; `allowed` are the exit codes of the
    others; one of `named` must be in the cause of each that exits with 75.
    """
    others = [node for node in result.nodes if node.index != faulty]
    codes = {node.code for node in others}
    assert codes <= allowed, codes
    complete = (result.results / "manifest.json").exists()
    if 0 in codes:
        assert complete and run_json(result)["exit"]["code"] == 0
    if complete:
        check_manifest(result)
    for node in others:
        # A worker that only follows the main node has the cause in its last line.
        *lines, last = [record for record in node.errors if record["event"] != "job_exited"] or [
            {},
            {},
        ]
        assert lines in ([], [{}]), lines
        assert last.get("hint") or not last
        ends = [str(record["cause"]) for record in node.errors if record["event"] == "job_exited"]
        assert node.code == 0 or (ends and ends[0]), node.name
        if node.code == 75 and named:
            assert any(name in ends[0] for name in named), ends
    # Under mpirun all ranks print on the main node, even the one with the fault. Nodes that
    # are processes share its output directory as well, and what they wrote there is lost with it.
    counted = others if isinstance(running.nodes[0], Process) else result.nodes
    started = {line for node in counted for line in node.tail if line.startswith("ready ")}
    kept = {f"ready {one['rank']} of {one['size']}" for one in ranks(result)}
    excused = "" if faulty is None else f"ready {rank_of(running.job, faulty)} "
    lost = {line for line in started - kept if not (excused and line.startswith(excused))}
    assert all(is_named(result, line) for line in lost), lost
    for node in others:
        assert leftovers(running, node.index) == []


def rank_of(job, index):
    """Return the rank on a node: mpirun counts in the hostfile's order, `each` by index."""
    each = job.env["ARCHITRAVE_LAUNCHER"] == "each"
    return index if each else job.start_order.index(index)


def is_named(result, line):
    """Return whether a log says that a rank's result was not uploaded."""
    name = f"rank-{line.split()[1]}.json"
    return any(name in node.stderr.decode() for node in result.nodes)


def leftovers(running, index):
    """Return what an agent that has exited left behind: processes, keys, decrypted files."""
    node = running.nodes[index]
    if isinstance(node, Process):
        secrets = [*(node.root / "opt").iterdir(), *node.root.rglob(".architrave*")]
        secrets += [node.root / "tmp/batch"] if (node.root / "tmp/batch").exists() else []
        return [*map(str, secrets), *processes_below(node.root)]
    upper = containers._docker("inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", node.name)
    # `docker diff` compares whole images: two seconds of processor time. Where the engine's files
    # can be read, it is asked only if there is something.
    if os.access(upper, os.R_OK | os.X_OK) and not any(
        _entries(upper, name) for name in DIRECTORIES
    ):
        return []
    command = ["docker", "diff", node.name]
    changes = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    added = [line[2:] for line in changes.splitlines() if line.startswith("A ")]
    ours = ("/opt/", "/var/tmp/.architrave", "/tmp/batch/")
    return [path for path in added if path.startswith(ours) or path == "/tmp/batch"]


def _entries(upper, directory):
    """Return what a container has in a directory and its image has not; no whiteouts."""
    try:
        found = list(os.scandir(os.path.join(upper, directory)))
    except FileNotFoundError:
        return []
    names = [one.name for one in found if one.is_dir() or one.is_file() or one.is_symlink()]
    return [name for name in names if not name.startswith(".wh.")]


def processes_below(root):
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and str(root) in " ".join(
                (process.cwd(), *process.cmdline())
            ):
                found.append(f"{process.pid} {process.name()}")
        except psutil.Error:
            continue
    return found


def nothing_goes_on(node, seconds=10):
    """Check that what a killed agent has started ends soon, by itself."""
    deadline = time.monotonic() + seconds
    while (found := processes_below(node.root)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not found


def kill_agent(node):
    """Kill only the agent; what it started must exit by itself."""
    node.signal(signal.SIGKILL)


def only_ssh(address):
    """Return a script by which a container reaches nothing of an address but its sshd.

    One script: a container is started to run it, and the job goes on meanwhile.
    """
    passing = [f"ipproto 6 {which} 22 lookup main" for which in ("dport", "sport")]
    return "; ".join(
        f"ip rule add priority {priority} to {address} {rule}"
        for priority, rule in enumerate([*passing, "prohibit"], 1)
    )


def cut_briefly(node, seconds):
    """Cut a container off for so long, if it still runs, all by one other container.

    To start a second one for the end takes long on a busy machine, and a cut isn't brief any more.
    """
    try:
        number = containers._docker("exec", node.name, "cat", "/sys/class/net/eth0/iflink")
        script = (
            f"for each in /sys/class/net/*/ifindex; do [ $(cat $each) = {number} ] || continue; "
            f"each=${{each%/ifindex}}; each=${{each##*/}}; ip link set $each down; "
            f"sleep {seconds}; exec ip link set $each up; done; exit 1"
        )
        node._run("host", script)
    except AgentError:
        if node._runs():
            raise


def kill_sshd(node, number=signal.SIGKILL):
    """Send a signal to the sshd that listens; return whether there was one."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(node.process.pid).children():
            if child.name() == "sshd":
                child.send_signal(number)
                return True
    return False


def kill_helper(node):
    """Kill a helper process of an agent's; return whether there was one."""
    helper = helper_of(node.process)
    if helper is not None:
        helper.kill()
    return helper is not None


def helper_of(process, seen=()):
    """Return a helper process of an agent's that has not been seen yet, None if there is none."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children():
            with contextlib.suppress(psutil.Error):
                if child not in seen and any(
                    "helper.py" in argument for argument in child.cmdline()
                ):
                    return child
    return None


def phases(node_state):
    """Return the phases in a node's log."""
    return [
        json.loads(line)["phase"]
        for line in node_state.stderr.decode().splitlines()
        if '"event": "phase_started"' in line
    ]
