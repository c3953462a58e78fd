"""Many results: what they cost grows with their number, and no heartbeat is late for them."""

import json
from pathlib import Path

import pytest

from tests.support.basics import REPOSITORY
from tests.support.clusters import codes, errors

SYNTHETIC = Path(__file__).parent / "synthetic"
HEARTBEAT = 2.0
COUNTS = [600_000, *[25_000] * 16]


@pytest.mark.cell("application.many-results")
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_million_results(cluster, tmp_path):
    """One node with 600 thousand and sixteen with the rest: code 0, every loop in time."""
    path = f"{SYNTHETIC}:{REPOSITORY}"
    node_env = {0: {"PYTHONPATH": path, "SYNTHETIC_AWAY": f"{tmp_path}/away-0"}}
    for node, count in enumerate(COUNTS, 1):
        away = f"{tmp_path}/away-{node}"
        given = {"PYTHONPATH": path, "SYNTHETIC_AWAY": away, "SYNTHETIC_RESULTS": str(count)}
        node_env[node] = given
    env = {"ARCHITRAVE_LAUNCHER": "direct", "ARCHITRAVE_HEARTBEAT_SECONDS": str(HEARTBEAT)}
    nodes = len(COUNTS) + 1
    with cluster(None, "exit 0", nodes=nodes, env=env, node_env=node_env, timeout=350) as running:
        result = running.wait()
    assert codes(result) == [0] * nodes, errors(result.nodes[0])
    run = json.loads((result.results / "run.json").read_text())
    assert [len(node["files"]) for node in run["nodes"]][1:] == COUNTS
    with open(result.results / "manifest.json", encoding="utf-8") as file:
        manifest = json.load(file)
    assert len(manifest["files"]) == sum(COUNTS) + len(run["nodes"][0]["files"])
    away = [float(Path(f"{tmp_path}/away-{node}").read_text()) for node in range(nodes)]
    print(f"the loop was blocked for {max(away):.2f} s at most, on the main node {away[0]:.2f} s")
    assert max(away) < HEARTBEAT / 2
