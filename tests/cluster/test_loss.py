"""Nodes that are lost, late, stopped, or not of this job: every node exits, with the cause."""

import json
import shutil
import signal
import subprocess
import time

import pytest

from agent.tools.cluster.faults import DELAY, Fault
from tests.support.basics import PASSWORD, pack
from tests.support.clusters import codes, errors, ranks, run_json, wait_ready

pytestmark = pytest.mark.timeout(120)

END_SECONDS = 20


def end_within(running, indexes, seconds=END_SECONDS):
    """Return the codes of nodes that must all end so soon."""
    deadline = time.monotonic() + seconds
    return [running.wait_end(index, deadline - time.monotonic()) for index in indexes]


# The default, for which the promise of 20 s is made.
BEAT = {"ARCHITRAVE_HEARTBEAT_SECONDS": "2"}


def test_worker_killed(cluster, image):
    """A worker that dies in the run ends the job with 75 on all others, which name it."""
    with cluster(image, "hold", env=BEAT) as running:
        wait_ready(running, 3)
        running.nodes[2].kill()
        assert end_within(running, [0, 1]) == [75, 75]
        result = running.wait()
    assert "worker 2" in errors(result.nodes[0])
    exit_ = run_json(result)["exit"]
    assert (exit_["code"], exit_["source"]) == (75, "agent")
    assert "worker 2" in exit_["cause"]
    # What is there is on S3, but not all of it: the list that says so isn't.
    assert 0 in [one["rank"] for one in ranks(result)]
    assert not (result.results / "manifest.json").exists()


def test_main_killed(cluster, image):
    """Workers whose main node dies in the run end with 75, and what their ranks wrote is on S3."""
    with cluster(image, "hold", env=BEAT) as running:
        wait_ready(running, 3)
        running.nodes[0].kill()
        assert end_within(running, [1, 2]) == [75, 75]
        result = running.wait()
    for node in result.nodes[1:]:
        assert "main" in errors(node)
        name = f"node-{node.index}/rank-{node.index}.json"
        assert json.loads((result.results / name).read_text())["rank"] == node.index
    assert not (result.results / "manifest.json").exists()


@pytest.mark.slow
def test_worker_cut_off(cluster, image):
    """A worker whose network disappears is missed like a dead one, on both sides."""
    # Mpirun waits for the daemon that it can't reach until the grace period is over.
    env = {"ARCHITRAVE_GRACE_SECONDS": "3"}
    with cluster(image, "hold", env=env) as running:
        wait_ready(running, 3)
        running.nodes[1].cut()
        assert end_within(running, [0, 2]) == [75, 75]
        assert end_within(running, [1], 60) == [75]


def test_all_are_stopped(cluster, image):
    """SIGTERM to every node, as Batch ends a job: 143 everywhere, and partial results are kept."""
    with cluster(image, "hold") as running:
        wait_ready(running, 3)
        for node in running.nodes.values():
            node.signal(signal.SIGTERM)
        assert end_within(running, range(3)) == [143] * 3
        result = running.wait()
    assert [one["rank"] for one in ranks(result)] == [0, 1, 2]
    assert "ready 0 of 3" in (result.results / "node-0/time.log").read_text()


def test_stopped_before_the_run(cluster, image):
    """SIGTERM counts before there is a program to stop."""
    late = Fault(DELAY, 1, seconds=1000)
    with cluster(image, "hold", nodes=2, faults=(late,)) as running:
        running.wait_phase(0, "join")
        running.nodes[0].signal(signal.SIGTERM)
        assert end_within(running, [0]) == [143]


@pytest.fixture
def strangers(tmp_path):
    """Return a private.7z with another key pair."""
    directory = tmp_path / "strangers"
    directory.mkdir()
    key = directory / "ssh_host_rsa_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", key], check=True)
    shutil.copy("/bin/true", directory / "program")
    return pack(directory, tmp_path / "strangers.7z", PASSWORD)


def test_node_with_another_key(cluster, strangers):
    """A node with another key isn't let in: it ends with 77, the others miss it."""
    node_env = {2: {"S3_BATCH_PRIVATE_REL_PATH": "batch/strangers.7z"}}
    env = {"ARCHITRAVE_JOIN_TIMEOUT_SECONDS": "15"}
    files = {"batch/strangers.7z": strangers}
    with cluster(None, "hold", env=env, node_env=node_env, files=files) as running:
        result = running.wait()
    assert codes(result) == [75, 75, 77]
    assert "worker 2" in errors(result.nodes[0])
    assert "ready" not in result.nodes[0].stdout.decode()


@pytest.mark.slow
def test_two_nodes_with_one_index(cluster, image):
    """Of two nodes that claim one index the second one is refused, and the job doesn't run."""
    node_env = {2: {"AWS_BATCH_JOB_NODE_INDEX": "1"}}
    env = {"ARCHITRAVE_JOIN_TIMEOUT_SECONDS": "15"}
    with cluster(image, "hold", env=env, node_env=node_env) as running:
        result = running.wait()
    assert result.code == 75
    assert 0 not in codes(result)
    assert "worker 2" in errors(result.nodes[0])
