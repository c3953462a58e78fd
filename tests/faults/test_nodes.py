"""Nodes that die, stop or lose the network, in every phase, and those that come late or never."""

import json
import os
import pwd
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from agent.multinode.sftp import Sftp
from agent.tools.cluster.faults import DELAY, Fault
from tests.faults import harness
from tests.support.basics import until
from tests.support.clusters import codes, errors, start_late, wait_ready

PHASES = ["fetch", "unpack", "join", "run", "release", "upload"]
NODES = pytest.mark.parametrize("faulty", [0, 2], ids=["main", "worker"])


def node_phases(*both, main=(), worker=(), last=2, quick=()):
    """Inject a fault into both nodes in some phases, and into one of them in the others.

    A fault leaves the others in the same state as one in the next phase, so not every fault is
    injected into every node in every phase; the soak draws among all. All but the quick ones are
    slow tests.
    """
    chosen = []
    for node, name, phases in ((0, "main", main), (last, "worker", worker)):
        for phase in (*both, *phases):
            assert phase in PHASES
            where = f"{name}-{phase}"
            marks = () if where in quick else pytest.mark.slow
            chosen.append(pytest.param(node, phase, id=where, marks=marks))
    assert set(quick) <= {one.id for one in chosen}
    return pytest.mark.parametrize(("faulty", "phase"), chosen)


def params(phase):
    """Return what the application does so that the phase comes, and the run lasts."""
    return "exit 0" if phase in ("release", "upload") else "hold"


def allowed(phase):
    """Return the codes of the others: in the end all may be done and kept already."""
    return {75, 0} if phase in ("release", "upload") else {75}


def named(running, faulty):
    """Return names of the node, one of which must be in the cause."""
    return (f"worker {faulty}", running.states[faulty].address)


@pytest.mark.cell("nodes.agent-killed")
@node_phases(
    *("join", "run", "release", "upload"),
    main=["fetch"],
    worker=["unpack"],
    quick=["main-run", "worker-join", "worker-run"],
)
def test_agent_killed(cluster, faulty, phase):
    """The others miss it, upload what there is and end; nothing that it started goes on."""
    with cluster(None, params(phase), env=harness.env()) as running:
        running.wait_phase(faulty, phase)
        harness.kill_agent(running.nodes[faulty])
        others = [index for index in range(3) if index != faulty]
        harness.ends(running, others)
        result = running.wait()
        names = named(running, faulty)
        harness.check(running, result, faulty=faulty, allowed=allowed(phase), named=names)
        harness.nothing_goes_on(running.nodes[faulty])


# What is forked kills the agent before it is bound to the agent's life.
KILLED_TOO_SOON = """
import os
from agent.engine.process import Children

def kill(*group):
    agent = os.getppid()
    os.kill(agent, 9)
    while os.getppid() == agent:
        pass

os.setpgid = kill
Children().spawn(["echo", "goes on"], os.environ)
"""


@pytest.mark.cell("nodes.agent-killed")
def test_agent_killed_between_fork_and_exec():
    command = [sys.executable, "-c", KILLED_TOO_SOON]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGKILL, "", "")


@pytest.mark.cell("nodes.container-killed")
@node_phases("run", main=["join"], worker=["fetch", "upload"], quick=["worker-fetch"])
def test_container_killed(cluster, image, faulty, phase):
    """The others miss it, and each one left uploads what its own ranks have written."""
    with cluster(image, params(phase), env=harness.env()) as running:
        running.wait_phase(faulty, phase)
        if phase == "run":
            wait_ready(running, 3)
        running.nodes[faulty].kill()
        others = [index for index in range(3) if index != faulty]
        # For the run phase 20 s are promised; an earlier one may itself take long.
        harness.ends(running, others, 20 if phase == "run" else harness.BOUND)
        result = running.wait()
        names = named(running, faulty)
        harness.check(running, result, faulty=faulty, allowed=allowed(phase), named=names)


@pytest.mark.cell("nodes.cut")
@node_phases("run", main=["join", "upload"], worker=["fetch", "release"], quick=["worker-run"])
def test_cut_off(cluster, image, faulty, phase):
    """Without a FIN each side misses the other by heartbeats only; then all end."""
    with cluster(image, params(phase), env=harness.env()) as running:
        running.wait_phase(faulty, phase)
        running.nodes[faulty].cut()
        harness.ends(running, [index for index in range(3) if index != faulty])
        # It can reach no node, S3 neither, and ends all the same.
        (own,) = harness.ends(running, [faulty], 90)
        assert own != 0 or phase in ("release", "upload")
        result = running.wait()
        names = named(running, faulty)
        harness.check(running, result, faulty=faulty, allowed=allowed(phase), named=names)


@pytest.mark.cell("nodes.cut-briefly")
@node_phases(main=["fetch", "join"], worker=["run", "upload"], last=1, quick=["main-fetch"])
def test_cut_off_briefly(cluster, image, faulty, phase):
    """For two of the five heartbeats that mean loss: the job goes on."""
    heartbeat = 2.0
    env = harness.env(ARCHITRAVE_JOIN_TIMEOUT_SECONDS="30")
    env |= {"ARCHITRAVE_HEARTBEAT_SECONDS": str(heartbeat)}
    # S3 is cut off too: two tries are over before that is.
    del env["AWS_MAX_ATTEMPTS"]
    with cluster(image, "hold" if phase == "run" else "exit 5", nodes=2, env=env) as running:
        running.wait_phase(faulty, phase)
        if phase == "run":
            # While mpirun connects with its daemons it doesn't try twice.
            wait_ready(running, 2)
        harness.cut_briefly(running.nodes[faulty], 2 * heartbeat)
        goes_on(running, phase, heartbeat)


def goes_on(running, phase, heartbeat=harness.HEARTBEAT):
    """See that the job ends as if nothing had been."""
    if phase == "run":
        until(lambda: running.states[0].stdout.count(b"ready ") == len(running.nodes), 60)
        with pytest.raises(TimeoutError):
            running.wait_end(0, 2 * 5 * heartbeat)
        for node in running.nodes.values():
            node.signal(signal.SIGTERM)
    expected = 143 if phase == "run" else 5
    assert set(harness.ends(running, running.nodes, 80)) == {expected}
    result = running.wait()
    harness.check(running, result, faulty=None, allowed={expected})
    assert (result.results / "manifest.json").exists() or phase == "run"


@pytest.mark.cell("nodes.stopped-briefly")
@node_phases(
    "run",
    main=["unpack", "upload"],
    worker=["join", "release"],
    last=1,
    quick=["worker-join"],
)
def test_stopped_briefly(cluster, faulty, phase):
    heartbeat = 2.0
    env = harness.env(ARCHITRAVE_JOIN_TIMEOUT_SECONDS="30")
    env |= {"ARCHITRAVE_HEARTBEAT_SECONDS": str(heartbeat)}
    with cluster(None, "hold" if phase == "run" else "exit 5", nodes=2, env=env) as running:
        running.wait_phase(faulty, phase)
        running.nodes[faulty].freeze()
        threading.Event().wait(2 * heartbeat)  # the fault's own length
        running.nodes[faulty].thaw()
        goes_on(running, phase, heartbeat)


@pytest.mark.cell("nodes.stopped-longer")
@node_phases(
    *("join", "run"),
    main=["fetch", "release"],
    worker=["unpack", "upload"],
    quick=["worker-run"],
)
def test_stopped_for_longer(cluster, faulty, phase):
    """The others continue without it; when it resumes it notices that, and uploads no results."""
    with cluster(None, params(phase), env=harness.env()) as running:
        running.wait_phase(faulty, phase)
        running.nodes[faulty].freeze()
        others = [index for index in range(3) if index != faulty]
        harness.ends(running, others)
        before = set(running.s3.keys("architrave"))
        running.nodes[faulty].thaw()
        (own,) = harness.ends(running, [faulty], 40)
        result = running.wait()
        after = set(running.s3.keys("architrave"))
        names = named(running, faulty)
        harness.check(running, result, faulty=faulty, allowed=allowed(phase), named=names)
    assert own in allowed(phase) | {75}
    if phase == "run":
        assert after == before
        events = {record["event"] for record in result.nodes[faulty].records}
        assert {"node_frozen", "results_not_uploaded"} <= events


@pytest.mark.cell("nodes.sshd-killed")
@node_phases(
    *("join", "run"),
    main=["release"],
    worker=["upload"],
    last=1,
    quick=["main-join", "worker-run"],
)
def test_sshd_killed(cluster, faulty, phase):
    """It is started again, and the job goes on: what runs needs it no longer."""
    env = harness.env(ARCHITRAVE_JOIN_TIMEOUT_SECONDS="30")
    with cluster(None, "hold" if phase == "run" else "exit 5", nodes=2, env=env) as running:
        running.wait_phase(faulty, phase)
        if phase == "run":
            wait_ready(running, 2)
        kill = partial(harness.kill_sshd, running.nodes[faulty])
        # Later on it may have been ended already.
        killed = until(kill) if phase in ("join", "run") else kill()
        goes_on(running, phase)
        if phase in ("join", "run"):
            assert killed and b'"sshd_exited"' in running.states[faulty].stderr


@pytest.mark.cell("nodes.unreachable")
@pytest.mark.timeout(150)
@pytest.mark.slow
def test_a_worker_that_lives_and_cannot_be_reached(cluster):
    """It gives its signs of life, so only a bound ends the wait for it."""
    env = harness.env(ARCHITRAVE_LAUNCHER="direct")
    with cluster(None, "last 4 0", env=env) as running:
        until(lambda: running.states[0].stdout.count(b"ready "), 60)
        assert harness.kill_sshd(running.nodes[1], signal.SIGSTOP)
        assert running.wait_end(0, 80) == 75
        (message,) = (r["message"] for r in running.states[0].errors if r["event"] == "worker_lost")
        assert "worker 1 " in message and "1e+09" not in message, message
        result = running.wait()
    assert codes(result)[0] == 75 and codes(result)[1] == 75
    assert (result.results / "node-0/rank-0.json").exists()
    assert not (result.results / "manifest.json").exists()


@pytest.mark.cell("nodes.never-starts")
def test_never_starts(cluster):
    """75 at the deadline, naming the missing index; the nodes that joined end with it."""
    late = Fault(DELAY, 2, seconds=1000)
    env = harness.env(ARCHITRAVE_JOIN_TIMEOUT_SECONDS="10")
    with cluster(None, "hold", env=env, faults=(late,)) as running:
        running.wait_phase(0, "join")
        start = time.monotonic()
        assert harness.ends(running, [0, 1], 10 + harness.BOUND) == [75, 75]
        assert time.monotonic() - start > 8
        result = running.wait()
    assert "worker 2" in errors(result.nodes[0])


@pytest.mark.cell("nodes.late")
@NODES
def test_late(cluster, faulty):
    """A node that starts later joins, the main node too."""
    late = Fault(DELAY, faulty, seconds=4)
    env = harness.env(ARCHITRAVE_JOIN_TIMEOUT_SECONDS="60")
    with cluster(None, "exit 5", env=env, faults=(late,)) as running:
        result = running.wait()
        harness.check(running, result, faulty=None, allowed={5})
    assert codes(result) == [5, 5, 5]


@pytest.mark.cell("nodes.firewall")
def test_daemon_of_mpirun_fails(cluster):
    """The launch doesn't wait for a daemon of mpirun's that could not start on one node."""
    env = {1: {"TMPDIR": "/proc/nothing"}}
    with cluster(None, "exit 0", env=harness.env(), node_env=env) as running:
        mpirun_fails(running.wait())


@pytest.mark.cell("nodes.firewall")
def test_only_ssh_passes(cluster, image):
    """Nor for one that can't call back."""
    # The third comes later: the job can't be launched before the rules are there.
    late = Fault(DELAY, 2, seconds=1000)
    env = harness.env(ARCHITRAVE_JOIN_TIMEOUT_SECONDS="60")
    with cluster(image, "exit 0", env=env, faults=(late,)) as running:
        running.wait_phase(1, "join")
        running.nodes[1].in_network(harness.only_ssh(running.nodes[0].address))
        start_late(running)
        mpirun_fails(running.wait())


def mpirun_fails(result):
    (code,) = set(codes(result))
    assert code not in (0, 75, 70)
    for line in map(errors, result.nodes):
        assert "mpirun" in line and "daemon" in line, line
    assert "reliably start" in (result.results / "node-0/time.log").read_text()


@pytest.mark.cell("nodes.all-at-once")
def test_sixty_four_in_one_second(cluster):
    """The main node's sshd refuses none of 64 workers that all connect at the same moment."""
    count = 64
    late = tuple(Fault(DELAY, index, seconds=1000) for index in range(1, count + 1))
    env = harness.env(ARCHITRAVE_JOIN_TIMEOUT_SECONDS="60", ARCHITRAVE_LAUNCHER="direct")
    env |= {"ARCHITRAVE_HEARTBEAT_SECONDS": "4"}  # 64 handshakes at once keep every core busy
    with cluster(None, "hold", nodes=count + 1, env=env, faults=late) as running:
        until(lambda: logged(running.states[0], what="workers join"), 60)
        main, job = running.nodes[0], running.job
        ssh = main.root / f"var/tmp/.architrave-{os.geteuid()}/ssh"
        port = int(re.search(r"^Port (\d+)$", (ssh / "sshd_config").read_text(), re.M)[1])
        together = threading.Barrier(count)

        def join(index):
            worker = {"index": index, "address": f"127.0.0.{index + 2}", "slots": 1}
            worker |= {"version": "1", "job": job.job_id, "attempt": 1}
            together.wait()
            # No second try: a refused node fails here.
            user = pwd.getpwuid(os.geteuid()).pw_name
            with Sftp(main.address, port, user, str(ssh), 60) as remote:
                assert json.loads(remote.read("main.json"))["job"] == job.job_id
                data = json.dumps(worker).encode()
                remote.write(f"workers_ready/{index}.json", data, replace=False)
                return time.monotonic()

        with ThreadPoolExecutor(count) as pool:
            list(pool.map(join, range(1, count + 1)))
        until(lambda: logged(running.states[0], event="nodes_joined", nodes=count + 1), 20)


def logged(state, **fields):
    """Return whether a record of a node's log has these fields."""
    return any(fields.items() <= record.items() for record in state.records)
