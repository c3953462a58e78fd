"""Where the application's processes run, and with what environment."""

import re

import pytest

from tests.support.clusters import check_manifest, codes, errors, ranks, run_json

pytestmark = pytest.mark.timeout(120)


def hosts(text):
    """Return (address, slots) per line of a hostfile."""
    found = [re.fullmatch(r"(\S+) slots=(\d+)", line) for line in text.splitlines()]
    return [(line[1], int(line[2])) for line in found]


def check_ranks(result, count, main=0):
    """Check that rank after rank runs on its own node: main first, then the workers by index."""
    seen = ranks(result)
    order = [main, *(index for index in range(count) if index != main)]
    addresses = [result.nodes[index].address for index in order]
    assert [one["address"] for one in seen] == addresses
    assert len(set(addresses)) == count
    assert hosts(seen[0]["hostfile"]) == [(address, 1) for address in addresses]
    assert [node["address"] for node in run_json(result)["nodes"]] == [
        node.address for node in result.nodes
    ]
    return seen


@pytest.mark.parametrize(
    ("backend", "count", "main"),
    [("containers", 2, 1), ("processes", 4, 2)],
    indirect=["backend"],
)
def test_every_rank_on_its_own_node(cluster, backend, meet, count, main):
    """Mpirun reaches every node by ssh in the hostfile's order, whichever node is the main one."""
    with cluster(backend, f"{meet} 0", nodes=count, main_index=main) as running:
        result = running.wait()
    assert codes(result) == [0] * count
    seen = check_ranks(result, count, main)
    if backend:
        assert [one["hostname"] for one in seen] == ["node-1", "node-0"]
    assert run_json(result)["main_node"] == main


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_six_containers(cluster, image, meet):
    """They start, run as one program, and exit."""
    with cluster(image, f"{meet} 5", nodes=6, timeout=200) as running:
        result = running.wait()
    assert codes(result) == [5] * 6
    seen = check_ranks(result, 6)
    assert [one["hostname"] for one in seen] == [f"node-{index}" for index in range(6)]
    assert {f"node-{index}/rank-{index}.json" for index in range(6)} < check_manifest(result).keys()


def test_eight_processes(cluster, meet):
    """So do eight nodes, as processes on one machine."""
    with cluster(None, f"{meet} 5", nodes=8) as running:
        result = running.wait()
    assert codes(result) == [5] * 8, errors(result.nodes[0])
    check_ranks(result, 8)
    assert {f"node-{index}/rank-{index}.json" for index in range(8)} < check_manifest(result).keys()


def test_slots(cluster, image, meet):
    """Every node says how many processes it takes, and so many run there."""
    node_env = {0: {"ARCHITRAVE_SLOTS": "1"}, 1: {"ARCHITRAVE_SLOTS": "3"}}
    with cluster(image, f"{meet} 0", nodes=2, node_env=node_env) as running:
        result = running.wait()
    assert codes(result) == [0] * 2
    seen = ranks(result)
    assert [slots for _, slots in hosts(seen[0]["hostfile"])] == [1, 3]
    assert [one["hostname"] for one in seen] == ["node-0", "node-1", "node-1", "node-1"]


def test_each(cluster, image):
    """With the launcher `each` every node starts the application, and tells it where it is."""
    with cluster(image, "exit 0", env={"ARCHITRAVE_LAUNCHER": "each"}) as running:
        result = running.wait()
    assert codes(result) == [0] * 3
    seen = ranks(result)
    addresses = [node.address for node in result.nodes]
    for index, one in enumerate(seen):
        assert one["env"]["NODE_RANK"] == str(index)
        assert one["env"]["NODE_COUNT"] == "3"
        assert one["env"]["MAIN_ADDR"] == one["env"]["MASTER_ADDR"] == addresses[0]
        assert (one["env"]["NNODES"], one["env"]["MASTER_PORT"]) == ("3", "29500")
    assert hosts(seen[0]["hostfile"]) == [(address, 1) for address in addresses]
    files = check_manifest(result)
    assert {f"node-{index}/rank-{index}.json" for index in range(3)} <= files.keys()
    assert {f"node-{index}/time.log" for index in range(3)} <= files.keys()


def test_each_with_a_copy_that_fails(cluster):
    """A copy that fails on a worker ends the others, and its code is the job's."""
    with cluster(None, "fail 2 9", env={"ARCHITRAVE_LAUNCHER": "each"}) as running:
        result = running.wait()
    assert codes(result) == [9] * 3


def test_direct(cluster):
    """With the launcher `direct` only the main node starts the application; all end alike."""
    with cluster(None, "exit 3", env={"ARCHITRAVE_LAUNCHER": "direct"}) as running:
        result = running.wait()
    assert codes(result) == [3] * 3
    assert [one["env"]["AWS_BATCH_JOB_NODE_INDEX"] for one in ranks(result)] == ["0"]
    program, *arguments = run_json(result)["command"]
    assert program.endswith("/opt/program") and arguments == ["exit", "3"]
    assert {"node-0/rank-0.json", "node-0/time.log"} == check_manifest(result).keys()


def test_output_directory_of_the_main_node(cluster, image):
    """Where every node has another TMP_OUTPUT_DIR, each rank has its own; all results arrive."""
    node_env = {index: {"TMP_OUTPUT_DIR": f"/tmp/random-{index}"} for index in range(3)}
    with cluster(image, "exit 0", node_env=node_env) as running:
        result = running.wait()
    assert codes(result) == [0] * 3, "\n".join(errors(node) for node in result.nodes)
    seen = ranks(result)
    assert [one["env"]["TMP_OUTPUT_DIR"] for one in seen] == [f"/tmp/random-{i}" for i in range(3)]
    check_manifest(result)


@pytest.mark.parametrize("launcher", ["mpirun", "each"])
def test_one_output_directory_for_all(cluster, tmp_path, launcher):
    """Nodes that share a file system share the directory: it goes up once, with every node's log.

    On a kept volume another run's claim to it means nothing.
    """
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / ".architrave-owner-of-another-run").write_text("2")
    env = {"ARCHITRAVE_LAUNCHER": launcher, "TMP_OUTPUT_DIR": str(shared)}
    with cluster(None, "exit 0", env=env) as running:
        result = running.wait()
    assert codes(result) == [0] * 3, "\n".join(errors(node) for node in result.nodes)
    files = check_manifest(result)
    logs = range(3) if launcher == "each" else [0]
    assert files.keys() == {
        *(f"node-0/rank-{rank}.json" for rank in range(3)),
        *(f"node-{node}/time.log" for node in logs),
    }
    for node in logs:
        name = f"architrave-time-node-{node}.log" if node else "time.log"
        seen = (result.results / f"node-{node}/time.log").read_text()
        assert (shared / name).read_text() == seen
        assert f"ready {node} of 3" in seen
    assert len(list(shared.iterdir())) == 3 + len(logs) + 3  # the record, the page, the old claim


def test_start_file_of_the_shell(cluster, image, tmp_path):
    """What a shell would do at its start on a node neither delays nor breaks the launch."""
    start = tmp_path / "bashrc"
    start.write_text("echo noise; sleep 50; exit 9\n")
    docker_args = ("-v", f"{start}:/root/.bashrc:ro")
    with cluster(image, "exit 5", nodes=2, docker_args=docker_args, timeout=40) as running:
        result = running.wait()
    assert codes(result) == [5, 5], errors(result.nodes[0])


@pytest.mark.parametrize("backend", ["processes"], indirect=True)
def test_several_nodes_and_no_mpi(cluster, backend):
    """It runs under mpirun, and a warning names what else there is."""
    with cluster(backend, "exit 0", nodes=2, env={"ARCHITRAVE_LAUNCHER": "auto"}) as running:
        result = running.wait()
    assert codes(result) == [0, 0]
    assert len(ranks(result)) == 2
    hints = [str(record.get("hint")) for record in result.nodes[0].records]
    assert any("LAUNCHER=each" in hint and "LAUNCHER=direct" in hint for hint in hints)
