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
NODES = pytest.mark.parametrize("hurt", [0, 2], ids=["main", "worker"])


def places(*both, main=(), worker=(), last=2, quick=()):
    """Hurt each node in some phases, and only the one or the other, the last, in the others.

    What is hurt in one phase leaves to the nodes what it leaves in the next, so that not each fault
    comes to each node in each phase; the soak draws among all of them. All but the quick ones are
    slow tests.
    """
    chosen = []
    for node, name, phases in ((0, "main", main), (last, "worker", worker)):
        for phase in (*both, *phases):
            assert phase in PHASES
            where = f"{name}-{phase}"
            marks = () if where in quick else pytest.mark.slow
            chosen.append(pytest.param(node, phase, id=where, marks=marks))
    assert {where for where in quick if where not in {one.id for one in chosen}} == set()
    return pytest.mark.parametrize(("hurt", "phase"), chosen)


def params(phase):
    """Return what the application does so that the phase comes, and the run lasts."""
    return "exit 0" if phase in ("release", "upload") else "hold"


def allowed(phase):
    """Return the codes of the others: in the end all may be done and kept already."""
    return {75, 0} if phase in ("release", "upload") else {75}


def named(running, hurt):
    """Return how the others call the node, one of which must be in the cause."""
    return (f"worker {hurt}", running.states[hurt].address)


@pytest.mark.cell("nodes.agent-killed")
@places(
    *("join", "run", "release", "upload"),
    main=["fetch"],
    worker=["unpack"],
    quick=["main-run", "worker-join", "worker-run"],
)
def test_agent_killed(cluster, hurt, phase):
    """The others miss it, upload what there is and end; nothing that it started goes on."""
    with cluster(None, params(phase), env=harness.env()) as running:
        running.wait_phase(hurt, phase)
        harness.kill_agent(running.nodes[hurt])
        others = [index for index in range(3) if index != hurt]
        harness.ends(running, others)
        result = running.wait()
        names = named(running, hurt)
        harness.check(running, result, hurt=hurt, allowed=allowed(phase), named=names)
        harness.nothing_goes_on(running.nodes[hurt])


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
@places("run", main=["join"], worker=["fetch", "upload"], quick=["worker-fetch"])
def test_container_killed(cluster, image, hurt, phase):
    """The others miss it, and each one left uploads what its own ranks have written."""
    with cluster(image, params(phase), env=harness.env()) as running:
        running.wait_phase(hurt, phase)
        if phase == "run":
            wait_ready(running, 3)
        running.nodes[hurt].kill()
        others = [index for index in range(3) if index != hurt]
        # For the run phase 20 s are promised; an earlier one may itself take long.
        harness.ends(running, others, 20 if phase == "run" else harness.BOUND)
        result = running.wait()
        names = named(running, hurt)
        harness.check(running, result, hurt=hurt, allowed=allowed(phase), named=names)


@pytest.mark.cell("nodes.cut")
@places("run", main=["join", "upload"], worker=["fetch", "release"], quick=["worker-run"])
def test_cut_off(cluster, image, hurt, phase):
    """Without a FIN each side misses the other by heartbeats alone; then all end."""
    with cluster(image, params(phase), env=harness.env()) as running:
        running.wait_phase(hurt, phase)
        running.nodes[hurt].cut()
        harness.ends(running, [index for index in range(3) if index != hurt])
        # It can reach no node, S3 neither, and ends all the same.
        (own,) = harness.ends(running, [hurt], 90)
        assert own != 0 or phase in ("release", "upload")
        result = running.wait()
        names = named(running, hurt)
        harness.check(running, result, hurt=hurt, allowed=allowed(phase), named=names)


@pytest.mark.cell("nodes.cut-briefly")
@places(main=["fetch", "join"], worker=["run", "upload"], last=1, quick=["main-fetch"])
def test_cut_off_briefly(cluster, image, hurt, phase):
    """For two of the five heartbeats that mean loss: the job goes on."""
    heartbeat = 2.0
    env = harness.env(ARCHITRAVE_JOIN_TIMEOUT_SECONDS="30")
    env |= {"ARCHITRAVE_HEARTBEAT_SECONDS": str(heartbeat)}
    # S3 is cut off too: two tries are over before that is.
    del env["AWS_MAX_ATTEMPTS"]
    with cluster(image, "hold" if phase == "run" else "exit 5", nodes=2, env=env) as running:
        running.wait_phase(hurt, phase)
        if phase == "run":
            # While mpirun connects with its daemons it doesn't try twice.
            wait_ready(running, 2)
        harness.cut_briefly(running.nodes[hurt], 2 * heartbeat)
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
    harness.check(running, result, hurt=None, allowed={expected})
    assert (result.results / "manifest.json").exists() or phase == "run"


@pytest.mark.cell("nodes.stopped-briefly")
@places(
    "run",
    main=["unpack", "upload"],
    worker=["join", "release"],
    last=1,
    quick=["worker-join"],
)
def test_stopped_briefly(cluster, hurt, phase):
    heartbeat = 2.0
    env = harness.env(ARCHITRAVE_JOIN_TIMEOUT_SECONDS="30")
    env |= {"ARCHITRAVE_HEARTBEAT_SECONDS": str(heartbeat)}
    with cluster(None, "hold" if phase == "run" else "exit 5", nodes=2, env=env) as running:
        running.wait_phase(hurt, phase)
        running.nodes[hurt].freeze()
        threading.Event().wait(2 * heartbeat)  # the fault's own length
        running.nodes[hurt].thaw()
        goes_on(running, phase, heartbeat)


@pytest.mark.cell("nodes.stopped-longer")
@places(
    *("join", "run"),
    main=["fetch", "release"],
    worker=["unpack", "upload"],
    quick=["worker-run"],
)
def test_stopped_for_longer(cluster, hurt, phase):
    """The others go on without it; when it continues it sees that, and leaves results alone."""
    with cluster(None, params(phase), env=harness.env()) as running:
        running.wait_phase(hurt, phase)
        running.nodes[hurt].freeze()
        others = [index for index in range(3) if index != hurt]
        harness.ends(running, others)
        before = set(running.s3.keys("architrave"))
        running.nodes[hurt].thaw()
        (own,) = harness.ends(running, [hurt], 40)
        result = running.wait()
        after = set(running.s3.keys("architrave"))
        names = named(running, hurt)
        harness.check(running, result, hurt=hurt, allowed=allowed(phase), named=names)
    assert own in allowed(phase) | {75}
    if phase == "run":
        assert after == before
        events = {record["event"] for record in result.nodes[hurt].records}
        assert {"node_frozen", "results_not_uploaded"} <= events


@pytest.mark.cell("nodes.sshd-killed")
@places(
    *("join", "run"),
    main=["release"],
    worker=["upload"],
    last=1,
    quick=["main-join", "worker-run"],
)
def test_sshd_killed(cluster, hurt, phase):
    """It is started again, and the job goes on: what runs needs it no longer."""
    env = harness.env(ARCHITRAVE_JOIN_TIMEOUT_SECONDS="30")
    with cluster(None, "hold" if phase == "run" else "exit 5", nodes=2, env=env) as running:
        running.wait_phase(hurt, phase)
        if phase == "run":
            wait_ready(running, 2)
        kill = partial(harness.kill_sshd, running.nodes[hurt])
        # Later on it may have been ended already.
        killed = until(kill) if phase in ("join", "run") else kill()
        goes_on(running, phase)
        if phase in ("join", "run"):
            assert killed and b'"sshd_exited"' in running.states[hurt].stderr


@pytest.mark.cell("nodes.untold")
@pytest.mark.timeout(150)
@pytest.mark.slow
def test_a_worker_that_lives_and_cannot_be_told(cluster):
    """It gives its signs of life, so only a bound ends the wait for it."""
    env = harness.env(ARCHITRAVE_LAUNCHER="direct")
    with cluster(None, "last 4 0", env=env) as running:
        until(lambda: running.states[0].stdout.count(b"ready "), 60)
        assert harness.kill_sshd(running.nodes[1], signal.SIGSTOP)
        assert running.wait_end(0, 80) == 75
        (said,) = (r["message"] for r in running.states[0].errors if r["event"] == "worker_lost")
        assert "worker 1 " in said and "1e+09" not in said, said
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
def test_late(cluster, hurt):
    """A node that starts later joins, the main node too."""
    late = Fault(DELAY, hurt, seconds=4)
    env = harness.env(ARCHITRAVE_JOIN_TIMEOUT_SECONDS="60")
    with cluster(None, "exit 5", env=env, faults=(late,)) as running:
        result = running.wait()
        harness.check(running, result, hurt=None, allowed={5})
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
        assert "mpirun could not start its daemon on every node" in line
    assert "reliably start" in (result.results / "node-0/time.log").read_text()


@pytest.mark.cell("nodes.all-at-once")
def test_sixty_four_in_one_second(cluster):
    """The main node's sshd refuses none of 64 workers that all knock in the same moment."""
    count = 64
    late = tuple(Fault(DELAY, index, seconds=1000) for index in range(1, count + 1))
    env = harness.env(ARCHITRAVE_JOIN_TIMEOUT_SECONDS="60", ARCHITRAVE_LAUNCHER="direct")
    env |= {"ARCHITRAVE_HEARTBEAT_SECONDS": "4"}  # 64 handshakes at once keep every core busy
    with cluster(None, "hold", nodes=count + 1, env=env, faults=late) as running:
        until(lambda: told(running.states[0], what="workers join"), 60)
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
        until(lambda: told(running.states[0], event="nodes_joined", nodes=count + 1), 20)


def told(state, **fields):
    """Return whether a record of a node's log has these fields."""
    return any(fields.items() <= record.items() for record in state.records)
