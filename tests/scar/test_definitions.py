"""The files of examples/scar, read by SCAR itself, and what it makes of them."""

import base64
import json

import pytest

from agent.tools.cluster.job import BUCKET
from tests.support.scar import EXAMPLES, REPOSITORY, container

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


def variables(listed):
    return {one["name"]: one["value"] for one in listed}


@pytest.mark.parametrize("nodes", [1, 3])
def test_batch(batch, nodes):
    """`scar init` makes everything, and says so: function, queue, trigger, job definition."""
    account = batch(nodes)
    # The first start only writes SCAR's own configuration.
    assert account["codes"] == {"first": 1, "init": 0, "put": 0, "get": 0, "rm": 0}
    assert account["got"] == ["results/output/time.log"]
    (function,) = account["functions"]
    assert function["Runtime"] == "python3.11" and function["Layers"]
    assert [queue["state"] for queue in account["queues"]] == ["ENABLED"]
    (environment,) = account["environments"]
    # Every node is an instance of its own.
    assert environment["computeResources"]["maxvCpus"] >= nodes
    (trigger,) = account["notifications"]["LambdaFunctionConfigurations"]
    assert trigger["Filter"]["Key"]["FilterRules"] == [{"Name": "prefix", "Value": "input/"}]
    (definition,) = account["definitions"]
    if nodes > 1:
        assert (definition["node"]["numNodes"], definition["node"]["mainNode"]) == (3, 0)
    given = variables(container(account)["environment"])
    script = base64.b64decode(given["SCRIPT"])
    assert script == (REPOSITORY / "docker/opt/run_batch.sh").read_bytes()
    assert given["EXEC_TYPE"] == "batch"
    assert given["S3_BUCKET"] == f"s3://{BUCKET}"


@pytest.mark.parametrize("nodes", [1, 3])
def test_upload(batch, nodes):
    """The uploaded run_helper.sh is what the function submits a job for, to one node or to all."""
    account = batch(nodes)
    assert "input/run_helper.sh" in account["put"][BUCKET]
    assert account["answer"]["statusCode"] == 200
    (job,) = account["jobs"]
    (definition,) = account["definitions"]
    assert job["jobDefinition"] == definition["name"]
    assert ("nodeOverrides" in job) == (nodes > 1)


def test_remove(batch):
    """`scar rm` leaves nothing that costs: only the bucket and what is in it stay."""
    left = batch(3)["removed"]
    for name in ("functions", "definitions", "queues", "environments"):
        assert left[name] == []
    assert "LambdaFunctionConfigurations" not in left["notifications"]


def test_lambda(function):
    """The image with all of SCAR's own is within what AWS Lambda takes, and the helper is in it."""
    work, account = function
    assert account["codes"] == {"first": 1, "init": 0, "rm": 0}
    assert account["removed"]["functions"] == []
    (made,) = account["functions"]
    given = made["Environment"]["Variables"]
    assert given["UDOCKER_REPOS"].startswith("/var/task/")
    config = json.loads(base64.b64decode(given["FDL"]))
    assert config["container"]["environment"]["Variables"] == {"EXEC_TYPE": "lambda"}
    helper = (work / "task/run_helper.sh").read_bytes()
    assert helper == (EXAMPLES / "run_helper.sh").read_bytes()
    files = [path.lstat() for path in (work / "task").rglob("*") if path.is_file()]
    size = sum(one.st_size for one in files)
    assert size < 262_144_000
