"""AWS's region by both of its names, in everything that asks S3: AWS_REGION comes first."""

import json
import os

import pytest

from agent.core.environ import region
from agent.tools.cluster.job import Job
from agent.tools.generate import compose
from tests.faults.test_s3 import KEY
from tests.support.basics import pack
from tests.support.s3proxy import FailingS3

NAMES = pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"AWS_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-2"),
        ({"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-1"),
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-2"),
    ],
    ids=["new", "old", "both", "empty"],
)


@pytest.fixture
def failing(s3):
    """Return a server that notes for which region requests are signed."""
    with FailingS3(s3.endpoint) as server:
        yield server


@pytest.fixture
def batch(s3, s3_env, failing, keys, tmp_path):
    """Return the environment of a job without a region."""
    prefix = os.urandom(4).hex()
    s3.put_file("bucket", f"{prefix}/{KEY}", pack(keys, tmp_path / "private.7z"))
    env = {name: value for name, value in s3_env.items() if name != "AWS_REGION"}
    return env | {
        "AWS_ENDPOINT_URL_S3": failing.endpoint,
        "EXEC_TYPE": "batch",
        "AWS_BATCH_JOB_ID": "job",
        "S3_BUCKET": f"s3://bucket/{prefix}",
        "S3_BATCH_DEPS_REL_PATH": "<none>",
        "ARCHITRAVE_LAUNCHER": "direct",
        "APP_BIN": "/bin/sh",
        "APP_PARAMS": "-c 'cd $TMP_OUTPUT_DIR; for i in $(seq 40); do echo $i >$i; done'",
    }


@NAMES
def test_job(job, batch, failing, given, wanted):
    """boto3 and obstore, for archives and results."""
    code, _, err = job(**batch | given)
    assert code == 0, err
    assert failing.regions == {wanted}


@NAMES
def test_doctor(agent, batch, failing, given, wanted):
    process = agent("doctor", "--json", env=batch | given)
    out, _ = process.communicate(timeout=60)
    assert json.loads(out)["code"] == 0, out
    assert failing.regions == {wanted}


@NAMES
def test_explain(agent, batch, given, wanted):
    out, _ = agent("explain", env=batch | given).communicate(timeout=60)
    (line,) = (line for line in out.splitlines() if line.strip().startswith("region "))
    assert line.split() == ["region", wanted]


@NAMES
def test_pack(agent, batch, failing, tmp_path, given, wanted):
    (tmp_path / "program").mkdir()
    (tmp_path / "program/app").write_text("")
    arguments = ("private", str(tmp_path / "program"), "--no-password")
    target = ("--to", str(tmp_path / "p.7z"), "--upload", "s3://bucket/region")
    process = agent("pack", *arguments, *target, env=batch | given)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert failing.regions == {wanted}


@NAMES
def test_report(agent, batch, failing, given, wanted):
    process = agent("report", "s3://bucket/nowhere", env=batch | given)
    process.communicate(timeout=60)
    assert process.returncode == 66
    assert failing.regions == {wanted}


@NAMES
def test_local(given, wanted):
    """What a user gives comes before the region of the local server, by either name."""
    assert region({"AWS_REGION": "us-east-1"} | Job(env=given).environment(0, "")) == wanted


@NAMES
def test_compose(given, wanted):
    made = compose.compose(Job(env=given))["services"]
    assert region(made["main"]["environment"]) == wanted
    assert region(made["archives"]["environment"]) == "us-east-1"
    assert "region_name=region(os.environ)" in "".join(made["archives"]["entrypoint"])


def test_none():
    assert region({}) is None and region({"AWS_REGION": ""}) is None
