"""The application's exit code is every node's, and what it wrote on every node is on S3."""

import pytest

from agent.core.model import APPLICATION
from tests.support.basics import slow
from tests.support.clusters import check_manifest, codes, ranks, run_json

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize(
    ("backend", "code"),
    [("containers", 0), slow("containers", 137), ("processes", 255)],
    indirect=["backend"],
)
@pytest.mark.cell("application.code")
def test_three_nodes(cluster, backend, meet, code):
    """Every node ends with the application's code, and the manifest lists every node's files."""
    with cluster(backend, f"{meet} {code}") as running:
        result = running.wait()
    assert codes(result) == [code] * 3, result.nodes[0].stdout.decode()
    run = run_json(result)
    assert (run["exit"]["code"], run["exit"]["source"]) == (code, APPLICATION)
    assert [node["index"] for node in run["nodes"]] == [0, 1, 2]
    listed = check_manifest(result)
    assert "node-0/time.log" in listed
    assert {f"node-{rank}/rank-{rank}.json" for rank in range(3)} <= listed.keys()
    assert [seen["rank"] for seen in ranks(result)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("backend", "code"), [("containers", 7), ("processes", 0)], indirect=["backend"]
)
@pytest.mark.cell("application.code")
def test_one_node(cluster, backend, code):
    """A single node behaves alike."""
    with cluster(backend, f"exit {code}", nodes=1, env={"ARCHITRAVE_SLOTS": "1"}) as running:
        result = running.wait()
    assert codes(result) == [code]
    assert run_json(result)["exit"]["code"] == code
    assert {"node-0/rank-0.json", "node-0/time.log"} == check_manifest(result).keys()


@pytest.mark.cell("application.rank-dies")
def test_the_code_of_a_rank_on_a_worker(cluster, image):
    """A rank that fails on a worker ends all others, and its code is the job's."""
    with cluster(image, "fail 2 7") as running:
        result = running.wait()
    assert codes(result) == [7] * 3
    assert run_json(result)["exit"]["source"] == APPLICATION
