"""The doctors of several nodes meet as a job's nodes do, and reach each other by every pair."""

import json
import re

import pytest

from agent.tools.cluster import processes
from agent.tools.cluster.faults import DELAY, Fault
from tests.faults.harness import leftovers, only_ssh
from tests.support import once
from tests.support.clusters import codes, start_late

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="session")
def doctors_image(image):
    """Return the image under test with another command: Batch sets it in a job definition."""
    return once.image("doctor", text=f'FROM {image}\nCMD ["doctor", "--json"]\n')


@pytest.fixture(params=["processes", "containers"])
def backend(request):
    """Return the image of the nodes, and None where they are processes."""
    kind = request.param
    return None if kind == "processes" else request.getfixturevalue("doctors_image")


@pytest.fixture
def doctors(cluster, monkeypatch):
    """Return what makes a cluster whose nodes run the doctor."""
    start = processes.spawn.start

    def doctor(argv, *arguments, **options):
        command = ["doctor", "--json"] if argv[-1] == "run" else [argv[-1]]
        return start([*argv[:-1], *command], *arguments, **options)

    def make(image, env=None, **options):
        env = {"ARCHITRAVE_LOG_LEVEL": "info", "ARCHITRAVE_JOIN_TIMEOUT_SECONDS": "60"} | (
            env or {}
        )
        if image is None:
            monkeypatch.setattr(processes.spawn, "start", doctor)
        return cluster(image, "exit 0", env=env, **options)

    return make


def reports(result):
    """Return what each node has printed."""
    found = [json.loads(node.stdout) for node in result.nodes]
    assert [one["schema"] for one in found] == ["architrave-doctor/1"] * len(found)
    assert [one["code"] for one in found] == codes(result)
    return found


def named(report, name, verdict=None):
    return [
        one["what"]
        for one in report["checks"]
        if one["name"] == name and verdict in (None, one["verdict"])
    ]


def numbers(text):
    """Return the numbers that a finding names."""
    return [int(number) for number in re.findall(r"\d+", text)]


def test_every_pair(doctors, backend):
    """Three healthy nodes: six of six pairs, nothing on S3, nothing left."""
    with doctors(backend) as running:
        result = running.wait()
        assert not list(running.s3.keys("architrave", "output"))
        assert [leftovers(running, index) for index in range(3)] == [[], [], []]
    main, *workers = reports(result)
    assert codes(result) == [0, 0, 0], main
    (pairs,) = named(main, "pairs")
    assert numbers(pairs) == [6, 6]
    assert named(main, "version", "PASS") and named(main, "clocks", "PASS")
    assert all(named(worker, "nodes", "PASS") for worker in workers)


@pytest.mark.slow
def test_a_cut_between_two_workers(doctors, doctors_image):
    """Both directions are named with their causes, the code is 75 on every node."""
    # They can be cut only while they run: the third comes later.
    with doctors(doctors_image, faults=(Fault(DELAY, 3, seconds=1000),), nodes=4) as running:
        for index in (1, 2):
            running.wait_phase(index, "join")
        address = running.states[2].address
        running.nodes[1].in_network(f"ip rule add priority 1 to {address} prohibit")
        start_late(running)
        result = running.wait()
    main = reports(result)[0]
    assert codes(result) == [75] * 4, main
    failed = named(main, "pairs", "FAIL")
    assert len(failed) == 2
    assert re.search(r"worker 1\b.*worker 2\b.* ssh: ", failed[0])
    assert re.search(r"worker 2\b.*worker 1\b.* ssh: ", failed[1])
    (pairs,) = named(main, "pairs", "WARN")
    assert numbers(pairs) == [10, 12]


@pytest.mark.slow
def test_only_ssh_passes(doctors, doctors_image):
    """What mpirun would wait for in vain is found: other ports than ssh's are closed."""
    with doctors(doctors_image, faults=(Fault(DELAY, 2, seconds=1000),)) as running:
        running.wait_phase(1, "join")
        running.nodes[1].in_network(only_ssh(running.nodes[0].address))
        start_late(running)
        result = running.wait()
    failed = named(reports(result)[0], "pairs", "FAIL")
    assert codes(result) == [75] * 3
    nodes = [re.findall(r"main|worker \d+", one.partition(":")[0]) for one in failed]
    assert nodes == [["main", "worker 1"], ["worker 1", "main"]]
    assert all(" tcp: " in one and "ssh: " not in one for one in failed)


def test_a_node_that_never_comes(doctors):
    """75 at the join deadline, and the missing node is named."""
    env = {"ARCHITRAVE_JOIN_TIMEOUT_SECONDS": "8"}
    with doctors(None, env=env, faults=(Fault(DELAY, 2, seconds=1000),)) as running:
        assert [running.wait_end(index, 60) for index in (0, 1)] == [75, 75]
        result = running.wait()
    (failed,) = named(json.loads(result.nodes[0].stdout), "nodes", "FAIL")
    assert "worker 2" in failed


def test_what_a_worker_finds_is_reported_by_main(doctors):
    """The main node names a worker's own finding, and every node ends with its code."""
    env = {2: {"APP_BIN": "/opt/nothing"}}
    with doctors(None, node_env=env) as running:
        result = running.wait()
    main, _, worker = reports(result)
    assert codes(result) == [127] * 3
    assert named(worker, "program", "FAIL")
    (found,) = named(main, "worker 2", "FAIL")
    assert "program" in found and "/opt/nothing" in found
