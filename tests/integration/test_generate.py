"""What `generate` makes, given to its readers: Batch, a job's own requests, compose, SCAR."""

import json
import shutil
import subprocess
import sys

import boto3
import moto
import pytest
import yaml

from agent.tools.cluster.job import BUCKET
from tests.support.aws_rules import allows, is_tried_again
from tests.support.basics import PASSWORD, pack
from tests.support.runtime_api import api
from tests.support.s3proxy import FailingS3
from tests.support.scar import EXAMPLES, account_image, container, deploy, node_image

__all__ = ["account_image", "api", "deploy", "node_image"]

SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:pw-a1b2c3"
ROLE = "arn:aws:iam::123456789012:role/execution"


@pytest.fixture
def generate(agent):
    """Return what runs `architrave generate` and returns what it prints."""

    def run(*arguments):
        out, err = (process := agent("generate", *arguments)).communicate(timeout=30)
        assert process.returncode == 0, err
        return out

    return run


# -- AWS Batch


@pytest.fixture
def batch(monkeypatch):
    """Return a client of moto's AWS Batch, with a queue that takes jobs."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "moto")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with moto.mock_aws(config={"batch": {"use_docker": False}}):
        trust = json.dumps({"Version": "2012-10-17", "Statement": []})
        iam = boto3.client("iam")
        role = iam.create_role(RoleName="batch", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
        client = boto3.client("batch")
        client.create_compute_environment(
            computeEnvironmentName="environment",
            type="UNMANAGED",
            state="ENABLED",
            serviceRole=role,
        )
        order = [{"order": 1, "computeEnvironment": "environment"}]
        client.create_job_queue(
            jobQueueName="queue", state="ENABLED", priority=1, computeEnvironmentOrder=order
        )
        yield client


@pytest.mark.parametrize("nodes", [1, 3])
def test_batch_registers_the_definition_and_takes_a_job_of_it(generate, batch, nodes):
    """The printed JSON is registered as it is, and a job of it can be submitted."""
    arguments = ["--image", "registry.example/app:1", "--nodes", str(nodes), "--timeout", "7200"]
    more = ["-e", "APP_BIN=/opt/app", "--secret", f"PRIVATE_PASSWD={SECRET}"]
    more += ["--execution-role", ROLE, "--log-group", "/my/jobs", "--ulimit", "nofile=65536"]
    made = json.loads(generate("job-definition", *arguments, *more))
    registered = batch.register_job_definition(**made)
    (kept,) = batch.describe_job_definitions(jobDefinitions=["architrave"])["jobDefinitions"]
    assert kept["jobDefinitionArn"] == registered["jobDefinitionArn"]
    assert kept["status"] == "ACTIVE" and kept["type"] == made["type"]
    assert kept["timeout"] == {"attemptDurationSeconds": 7200}
    assert kept["retryStrategy"]["attempts"] == 3
    rules = kept["retryStrategy"]["evaluateOnExit"]
    assert [code for code in range(1, 256) if is_tried_again(rules, code)] == [69, 75]
    if nodes == 1:
        assert kept["containerProperties"]["image"] == "registry.example/app:1"
        assert kept["containerProperties"]["secrets"] == [
            {"name": "PRIVATE_PASSWD", "valueFrom": SECRET}
        ]
    job = batch.submit_job(jobName="job", jobQueue="queue", jobDefinition="architrave")
    (taken,) = batch.describe_jobs(jobs=[job["jobId"]])["jobs"]
    assert taken["jobDefinition"] == registered["jobDefinitionArn"]
    assert taken["status"] in ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING",
                               "SUCCEEDED")  # fmt: skip


# -- IAM


ACTIONS = {"HEAD": "GetObject", "GET": "GetObject", "PUT": "PutObject", "POST": "PutObject",
           "DELETE": "DeleteObject"}  # fmt: skip


def asked(requests):
    """Return the requests as IAM names them: an action and a resource."""
    split = (request.split(" ", 1) for request in requests)
    return {(f"s3:{ACTIONS[method]}", f"arn:aws:s3:::{path.lstrip('/')}") for method, path in split}


@pytest.mark.parametrize("listed", [False, True])
def test_the_policy_allows_what_a_job_asks_of_s3(generate, job, s3, s3_env, keys, tmp_path, listed):
    """A whole job, with results in parts and packages by list, asks for nothing else."""
    prefix = f"policy-{listed}"
    content = tmp_path / "content"
    shutil.copytree(keys, content)
    s3.put_file("bucket", f"{prefix}/batch/p.7z", pack(content, tmp_path / "p.7z", PASSWORD))
    (tmp_path / "deps_batch.lst").write_text("")
    s3.put_file("bucket", f"{prefix}/debs/deps_batch.lst", tmp_path / "deps_batch.lst")
    env = {
        "S3_BUCKET": f"s3://bucket/{prefix}",
        "S3_BATCH_PRIVATE_REL_PATH": "batch/p.7z",
        "S3_BATCH_DEPS_REL_PATH": "debs/deps_batch.lst" if listed else "<none>",
        "APP_BIN": "/bin/sh",
        # Large enough for an upload in parts, and enough files for the other way of writing.
        "APP_PARAMS": "-c 'cd $TMP_OUTPUT_DIR; truncate -s 40M large; touch `seq 40`'",
    }
    arguments = [argument for name, value in env.items() for argument in ("-e", f"{name}={value}")]
    policy = json.loads(generate("iam-policy", *arguments))
    with FailingS3(s3.endpoint) as proxy:
        own = {"AWS_ENDPOINT_URL_S3": proxy.endpoint, "PRIVATE_PASSWD": PASSWORD}
        batch = {"AWS_BATCH_JOB_ID": prefix, "ARCHITRAVE_LAUNCHER": "direct"}
        code, _, err = job(**(s3_env | env | batch | own))
        assert code == 0, err
        done = asked(proxy.requests)
    assert f"POST /bucket/{prefix}/output/{prefix}/attempt-1/node-0/large" in proxy.requests
    refused = {one for one in done if not allows(policy, *one)}
    assert not refused
    # Nothing is allowed that a job never does; parts are aborted only when an upload fails.
    actions = {action for one in policy["Statement"] for action in one["Action"]}
    assert actions - {"s3:AbortMultipartUpload"} == {action for action, _ in done}
    for action in actions:
        assert not allows(policy, action, "arn:aws:s3:::bucket/other/object")
        assert not allows(policy, action, f"arn:aws:s3:::other/{prefix}/output/x")
    for action in actions - {"s3:GetObject"}:
        assert not allows(policy, action, f"arn:aws:s3:::bucket/{prefix}/batch/p.7z")
    assert not allows(policy, "s3:GetObject", f"arn:aws:s3:::bucket/{prefix}/output/x")


@pytest.mark.parametrize(
    "arguments",
    [
        ["-e", "S3_BUCKET=b", "--list-bucket", "--exec"],
        ["-e", "S3_BUCKET=b", "-e", "S3_BATCH_PRIVATE_REL_PATH=a*.7z"],
        ["--role", "execution", "--secret", f"PRIVATE_PASSWD={SECRET}"],
    ],
)
def test_iam_takes_the_policy(generate, batch, arguments):
    """The printed JSON is a policy, by the checks that moto's IAM makes of a document."""
    document = generate("iam-policy", *arguments)
    made = boto3.client("iam").create_policy(PolicyName="job", PolicyDocument=document)
    assert made["Policy"]["Arn"]


# -- compose


def test_compose_fills_its_server(generate, s3, s3_env, tmp_path):
    """The service that fills the buckets makes them, and a key pair where no archive is given."""
    made = yaml.safe_load(generate("compose", "--nodes", "2", "-e", "S3_BUCKET=s3://filled/x"))
    service = made["services"]["archives"]
    python, *arguments = [argument.replace("$$", "$") for argument in service["entrypoint"]]
    assert python == "/opt/architrave/bin/python3"  # as in the image; here it is this one
    command = [sys.executable, *arguments, *service["command"]]
    for _ in range(2):  # the second `up` finds the bucket
        subprocess.run(command, env={"PATH": "/usr/local/bin:/usr/bin:/bin", **s3_env}, check=True)
    s3.download("filled", "x", tmp_path / "got")
    archive = tmp_path / "got/batch/private.7z"
    listed = subprocess.run(["7zz", "l", "-ba", "-slt", archive], capture_output=True, text=True)
    names = [line[7:] for line in listed.stdout.splitlines() if line.startswith("Path = ")]
    assert sorted(names) == ["ssh_host_rsa_key", "ssh_host_rsa_key.pub"]


def compose_command():
    """Return the command that starts compose, None without it."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version"], capture_output=True)
            if done.returncode == 0:
                return command
    return None


@pytest.mark.skipif(compose_command() is None, reason="no compose")
def test_compose_reads_its_file(generate, tmp_path):
    """The program compose itself takes the file, and gives a node what was meant."""
    path = tmp_path / "compose.yaml"
    generate("compose", "--nodes", "3", "-e", "APP_PARAMS=a$b ${c}", "--to", str(path))
    command = [*compose_command(), "-f", str(path), "config"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)["services"]
    assert {"s3", "archives", "main", "worker-1", "worker-2"} == read.keys()
    # What it prints may be read again, so a dollar is still two.
    assert read["worker-2"]["environment"]["APP_PARAMS"] == "a$$b $${c}"


# -- SCAR


@pytest.mark.timeout(600)
@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.slow
def test_scar_makes_a_job_definition_of_its_file(generate, deploy, nodes):
    """SCAR itself reads the file for AWS Batch, and makes and removes all that is in it."""
    example = (EXAMPLES / "batch.yaml").read_text().replace("scar-architrave", BUCKET)
    arguments = ["--image", "example/architrave", "--bucket", BUCKET, "--nodes", str(nodes)]
    arguments += ["--script", "../../docker/opt/run_batch.sh", "--vcpus", "2", "--memory", "512"]
    text = generate("scar", "batch", *arguments, "-e", "ARCHITRAVE_SLOTS=1")
    account = deploy(
        f"generated-{nodes}", "batch.yaml", "batch", "remove", changes={example: text}
    )[1]
    assert account["codes"] == {"first": 1, "init": 0, "put": 0, "get": 0, "rm": 0}
    (definition,) = account["definitions"]
    assert (definition["node"] or {}).get("numNodes", 1) == nodes
    given = {one["name"]: one["value"] for one in container(account)["environment"]}
    assert given["ARCHITRAVE_SLOTS"] == "1" and given["S3_BUCKET"] == f"s3://{BUCKET}"
    (environment,) = account["environments"]
    assert environment["computeResources"]["maxvCpus"] == 2 * nodes
    assert account["removed"]["definitions"] == []


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_scar_makes_a_function_of_its_file(generate, deploy, node_image):
    """SCAR itself reads the file for AWS Lambda, with an image instead of a file of one."""
    example = (EXAMPLES / "lambda.yaml").read_text().replace("scar-architrave", BUCKET)
    arguments = ["--image", "/tmp/image.tar", "--bucket", BUCKET, "--script", "run_helper.sh"]
    text = generate("scar", "lambda", *arguments, "--memory", "2048", "--timeout", "77")
    # An image of 200 MB in a function's zip is for the tests of the examples.
    text = text.replace("python3.11", "image").replace(
        "image_file: /tmp/image.tar", f"image: {node_image}"
    )
    account = deploy("generated-lambda", "lambda.yaml", "remove", changes={example: text})[1]
    assert account["codes"] == {"first": 1, "init": 0, "rm": 0}
    (made,) = account["functions"]
    assert (made["MemorySize"], made["Timeout"]) == (2048, 77)
