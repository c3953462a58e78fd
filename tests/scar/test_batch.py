"""SCAR's chain on AWS Batch: our ENTRYPOINT, faas-supervisor, run_helper.sh, and us again."""

import json
import shlex

import pytest

from tests.support.basics import PASSWORD
from tests.support.containers import docker
from tests.support.scar import EXAMPLES, container

# The first test builds the images.
pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

SINGLE_NODE = (
    "AWS_BATCH_JOB_NUM_NODES=1",
    "AWS_BATCH_JOB_NODE_INDEX=0",
    "AWS_BATCH_JOB_MAIN_NODE_INDEX=0",
)
TIMES = ["", "real", "user", "sys", ""]


def helper(*, exports=False, **variables):
    """Return a run_helper.sh of the original's form, its three exports commented in or out."""
    lines = [f"{'' if exports else '# '}export {one}" for one in SINGLE_NODE]
    variables = {"PRIVATE_PASSWD": PASSWORD, "APP_BIN": "/opt/application"} | variables
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return "\n".join([*lines, "bash /opt/run.sh", ""])


def older(code, **options):
    """Return a helper with the four names of the older form."""
    return helper(APP_PARAMS1="first", APP_PARAMS2=str(code), APP_IN_FILE="/opt/in", **options)


def newer(code, **options):
    return helper(APP_PARAMS=f"'a  word' {code}", **options)


def time_log(output):
    """Return the application's lines of the time.log on S3, and check the lines of times."""
    lines = (output / "time.log").read_text().split("\n")
    assert [line.split("\t")[0] for line in lines[-5:]] == TIMES
    return lines[:-5]


def runs(output):
    """Return the hosts on which the application ran, once for every run."""
    return sorted(path.name.split("-", 1)[1].rpartition("-")[0] for path in output.glob("run-*"))


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_image_is_started_as_a_job_definition_starts_it(batch, node_image, nodes):
    """What follows is SCAR's job definition: the same command, behind our ENTRYPOINT."""
    account = batch(nodes)
    (started,) = json.loads(docker("inspect", node_image))
    assert started["Config"]["Cmd"] == container(account)["command"]
    assert started["Config"]["Entrypoint"] == ["/opt/architrave/bin/architrave"]


@pytest.mark.parametrize(("form", "exports"), [(newer, False), (older, True)])
def test_the_forms_of_run_helper(submit, form, exports):
    """One run, all of it on S3, and a failed application fails the job: code 3, not 0."""
    codes, output, _ = submit(form(3, exports=exports))
    assert codes == [3]
    assert len(runs(output)) == 1
    lines = time_log(output)
    if form is newer:
        assert lines[:2] == ["a  word", "3"]  # then mpirun says what failed
    else:
        # The third is faas-supervisor's TMP_OUTPUT_DIR.
        assert lines[:2] == ["/opt/in", "first"] and lines[2].startswith("/tmp/tmp")
        assert lines[3] == "3"
    exit_ = json.loads((output / "run.json").read_text())["exit"]
    assert (exit_["code"], exit_["source"]) == (3, "application")


def test_success(submit):
    codes, output, _ = submit(newer(0))
    assert codes == [0]
    assert len(runs(output)) == 1


@pytest.mark.parametrize(
    "script", ["#!/bin/bash\nbash $INPUT_FILE_PATH\n", newer(4)], ids=["run_batch", "run_helper"]
)
def test_other_scripts_of_the_function(submit, script):
    """The older run_batch.sh is this line; a helper may also be the function's own script."""
    codes, output, _ = submit(newer(4), script=script)
    assert codes == [4]
    assert len(runs(output)) == 1


def test_what_the_agent_fails_with(submit):
    """A wrong password ends the container with the agent's own code, through faas-supervisor."""
    codes, output, _ = submit(newer(0, PRIVATE_PASSWD="wrong"))
    assert codes == [77]
    assert runs(output) == []


def test_what_faas_supervisor_fails_with(submit):
    """Without the object that the event names nothing runs; the code is faas-supervisor's."""
    codes, output, _ = submit(newer(0), key="input/another.sh")
    assert codes == [1]
    assert not output.exists() or list(output.iterdir()) == []


def test_three_nodes(submit):
    """One run on each node, by mpirun; every faas-supervisor uploads what its node has."""
    codes, output, result = submit(older(0), nodes=3)
    assert codes == [0, 0, 0], [node.stderr.decode()[-2000:] for node in result.nodes]
    assert runs(output) == ["node-0", "node-1", "node-2"]
    assert time_log(output).count("0") == 3


def test_three_nodes_that_fail(submit):
    """The application's code ends every node's container."""
    codes, output, _ = submit(newer(3), nodes=3)
    assert codes == [3, 3, 3]
    assert "3" in time_log(output)


def test_the_example_itself(submit):
    """The run_helper.sh of examples/scar unchanged, but for the password: a line per node."""
    text = (EXAMPLES / "run_helper.sh").read_text()
    assert "PRIVATE_PASSWD=''" in text
    text = text.replace("PRIVATE_PASSWD=''", f"PRIVATE_PASSWD={shlex.quote(PASSWORD)}")
    codes, output, _ = submit(text, nodes=3)
    assert codes == [0, 0, 0]
    lines = time_log(output)
    assert sorted(line.split()[1] for line in lines) == ["node-0", "node-1", "node-2"]


def test_results_that_the_agent_uploads(submit):
    """With ARCHITRAVE_OUTPUT the agent uploads too, for all nodes, before the main node ends."""
    destination = {"ARCHITRAVE_OUTPUT": "s3://architrave/output/jobs"}
    codes, output, result = submit(newer(0), nodes=3, env=destination)
    assert codes == [0, 0, 0]
    attempt = output / "jobs" / result.job_id / "attempt-1"
    listed = json.loads((attempt / "manifest.json").read_text())["files"]
    assert [one["path"] for one in listed if one["path"].endswith("time.log")] == [
        "node-0/time.log"
    ]
    assert len([one for one in listed if "/run-node-" in one["path"]]) == 3
