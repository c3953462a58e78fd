"""run.json and the manifest."""

import json

from agent.core.model import Node, Outcome, Span, Topology
from agent.report import run_json


def test_record_and_manifest():
    topology = Topology("j", 1, 0, 2)
    spans = [Span("run", 1.0, 2.5), Span("upload", 2.5)]
    records = [
        run_json.node_record(Node(i, f"10.0.0.{i}", 2), spans, files=[], failed=[]) for i in (1, 0)
    ]
    run = json.loads(run_json.run_json(topology, Outcome(7), ["/a", "b c"], records, {"real": 1.5}))
    assert run["schema"].startswith("architrave-run/")
    assert (run["exit"]["code"], run["exit"]["source"]) == (7, "application")
    assert [node["index"] for node in run["nodes"]] == [0, 1]
    assert run["nodes"][0]["phases"][0] == {"phase": "run", "start": 1.0, "end": 2.5}
    file = {"name": "a/b", "size": 3, "sha256": "00"}
    manifest = json.loads(run_json.manifest_json(topology, {1: [file], 0: []}))
    assert manifest["files"] == [{"path": "node-1/a/b", "size": 3, "sha256": "00"}]
