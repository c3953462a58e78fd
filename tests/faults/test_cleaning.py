"""A program that cleans up after others: what the agent needs lies elsewhere, or is made again."""

import pytest

from tests.faults.harness import env, leftovers
from tests.support.basics import slow
from tests.support.clusters import check_manifest, codes, errors

# Cleans /tmp on some nodes, and works on for some beats of everybody's hearts.
CLEANER = (
    "echo ready $AWS_BATCH_JOB_NODE_INDEX; sleep 1; case $CLEANS in *$AWS_BATCH_JOB_NODE_INDEX*)"
    " rm -rf ${ARCHITRAVE_ROOT:-}/tmp/* ${ARCHITRAVE_ROOT:-}/tmp/.[!.]*;; esac; sleep 4;"
    " mkdir -p $TMP_OUTPUT_DIR; echo 1 >$TMP_OUTPUT_DIR/result-$AWS_BATCH_JOB_NODE_INDEX;"
    " ls /tmp/batch ${ARCHITRAVE_ROOT:-}/tmp/batch >&2; exit $CODE"
)


@pytest.mark.cell("application.cleans")
@pytest.mark.parametrize(
    ("backend", "launcher", "cleans", "code"),
    [
        slow("containers", "mpirun", "0", 0),
        slow("containers", "each", "1", 0),
        slow("containers", "mpirun", "0,1,2", 7),
        ("processes", "mpirun", "1", 0),
        ("processes", "each", "0,1,2", 7),
    ],
    indirect=["backend"],
)
def test_cleans_tmp(cluster, backend, launcher, cleans, code):
    """On the main node, on a worker, on all: the job goes on, and ends with its code."""
    settings = env(CLEANS=cleans, CODE=str(code), ARCHITRAVE_LAUNCHER=launcher)
    settings["ARCHITRAVE_JOIN_TIMEOUT_SECONDS"] = "60"  # nobody is missing, however slow they start
    settings |= {"APP_BIN": "/bin/sh", "APP_PARAMS": f"-c '{CLEANER}'"}
    with cluster(backend, "", env=settings) as running:
        result = running.wait()
        left = [leftovers(running, node.index) for node in result.nodes]
    texts = "\n".join(node.stderr.decode() for node in result.nodes)
    assert codes(result) == [code] * 3, texts
    files = check_manifest(result)
    assert "node-0/time.log" in files
    if code == 0:  # a rank that fails ends the others before they have written
        assert {f"result-{node}" for node in range(3)} <= {n.partition("/")[2] for n in files}
        assert not any(errors(node) for node in result.nodes)
    assert "1000000000" not in texts and "86400" not in texts
    assert left == [[], [], []]
