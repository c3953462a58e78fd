"""Each rank sees the environment of the node on which it runs."""

import pytest

from tests.support.basics import slow
from tests.support.clusters import PROGRAM, codes, errors, ranks

pytestmark = [pytest.mark.timeout(120), pytest.mark.cell("application.environment")]

VALUES = {
    "LM_LICENSE_FILE": "27000@licence.example",
    "OMP_NUM_THREADS": "4",
    "QUOTED": """it's "so", $HOME and `id` \\ """,
    "LINES": "one\ntwo\n",
    "JSON": '{"a": [1, "b"], "c": null}',
    "LONG": "x" * 100_000,
}
# What the launcher itself says to its ranks.
LAUNCHER = ("OMPI_", "PMIX_", "PRTE_", "ORTE_", "HWLOC_", "PMI_", "OPAL_", "IPATH_", "HFI_")


@pytest.mark.parametrize(
    ("backend", "launcher"), [("containers", "mpirun"), ("processes", "each")], indirect=["backend"]
)
def test_each_rank_has_its_node_s_environment(cluster, backend, meet, launcher):
    """A variable of the job reaches every rank; what is a node's own stays its own."""
    node_env = {index: {"OWN": f"node {index}"} for index in range(3)}
    env = VALUES | {"ARCHITRAVE_LAUNCHER": launcher}
    with cluster(backend, "exit 0", env=env, node_env=node_env) as running:
        result = running.wait()
    assert codes(result) == [0] * 3, "\n".join(errors(node) for node in result.nodes)
    seen = [one["env"] for one in ranks(result)]
    assert len(seen) == 3
    for index, one in enumerate(seen):
        assert {name: one.get(name) for name in VALUES} == VALUES
        assert one["OWN"] == f"node {index}"
        assert one["AWS_BATCH_JOB_NODE_INDEX"] == str(index)
        assert "PRIVATE_PASSWD" not in one
        assert not any(name.startswith("AWS_SECRET") for name in one)
    if backend:
        assert [one["HOSTNAME"] for one in seen] == [f"node-{index}" for index in range(3)]
    names = [
        {name for name in one if not name.startswith(LAUNCHER) and name != "OLDPWD"} for one in seen
    ]
    each_only = {"NODE_RANK", "NODE_COUNT", "MAIN_ADDR", "HOSTFILE", "MASTER_ADDR"}
    each_only |= {"MASTER_PORT", "NNODES"}
    main_only = {"AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS"}
    for one in names[1:]:
        assert (one ^ names[0]) - each_only <= main_only


@pytest.mark.parametrize(
    ("backend", "launcher"),
    [("processes", "mpirun"), ("processes", "each"), slow("containers", "mpirun")],
    indirect=["backend"],
)
@pytest.mark.cell("application.stdin")
def test_each_rank_has_the_job_s_limits_and_rank_0_its_input(cluster, backend, launcher):
    """A file of private.7z; every copy reads its own node's with the launcher `each`."""
    env = {
        "ARCHITRAVE_LAUNCHER": launcher,
        "ARCHITRAVE_STDIN": "/opt/program",
        "ARCHITRAVE_ULIMITS": "stack=unlimited core=0 nofile=512:1024",
    }
    with cluster(backend, "exit 0", env=env) as running:
        result = running.wait()
    assert codes(result) == [0] * 3, "\n".join(errors(node) for node in result.nodes)
    seen = ranks(result)
    assert [one["limits"] for one in seen] == [
        {"stack": [-1, -1], "core": [0, 0], "nofile": [512, 1024]}
    ] * 3
    text = PROGRAM.read_text()
    inputs = [text] * 3 if launcher == "each" else [text, "", ""]
    assert [one["stdin"] for one in seen] == inputs
