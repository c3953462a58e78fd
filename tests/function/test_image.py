"""Both images as a Lambda function, as Lambda runs them: no root, nothing writable but /tmp."""

import json

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.support.basics import LAMBDA_IMAGE

# On the host's network the container reaches the two servers of the test.
AS_LAMBDA = ["--read-only", "--tmpfs", "/tmp:mode=1777", "--user", "993", "--network", "host"]
SCRIPT = """
id -u; cat "$INPUT_FILE_PATH" 2>/dev/null
echo made > $TMP_OUTPUT_DIR/made
touch /opt/written 2>/dev/null && echo "not read only"
eval "$MORE"
"""


@pytest.fixture
def s3():
    """Start a moto server and return a client with a bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="any",
        aws_secret_access_key="secret-of-the-role",
    )
    client.create_bucket(Bucket="bucket")
    yield client
    server.stop()


@pytest.fixture(params=["batch", "lambda"])
def function(request, image, containers, api, s3):
    """Return what starts the function's environment in each image: its container."""
    chosen = image if request.param == "batch" else LAMBDA_IMAGE

    def start(**env):
        usual = {
            "AWS_LAMBDA_RUNTIME_API": api.address,
            "AWS_LAMBDA_FUNCTION_NAME": "f",
            "AWS_ENDPOINT_URL_S3": s3.meta.endpoint_url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "secret-of-the-role",
            "APP_BIN": "/bin/sh",
            "APP_PARAMS": f"-c '{SCRIPT}'",
            "ARCHITRAVE_OUTPUT": "s3://bucket/function",
            "ARCHITRAVE_EVENT_ENV": "MORE",
        }
        return containers.start(chosen, env=usual | env, options=AS_LAMBDA)

    return start


def test_two_invocations(function, api, s3):
    container = function()
    s3.put_object(Bucket="bucket", Key="in/a b.txt", Body=b"the object\n")
    record = {"bucket": {"name": "bucket"}, "object": {"key": "in/a+b.txt"}}
    first = api.invoke({"Records": [{"s3": record}]})
    assert first.kind == "response", (first.body, container.errors)
    assert first.body["last_lines"][:2] == ["993", "the object"]
    prefix = f"function/{first.id}/attempt-1"
    keys = {one["Key"] for one in s3.list_objects_v2(Bucket="bucket", Prefix=prefix)["Contents"]}
    names = {"node-0/made", "node-0/time.log", "run.json", "manifest.json"}
    assert keys == {f"{prefix}/{name}" for name in names}
    run = json.loads(s3.get_object(Bucket="bucket", Key=f"{prefix}/run.json")["Body"].read())
    assert run["exit"]["code"] == 0 and run["job"] == first.id
    second = api.invoke({"env": {"MORE": "ls -A $TMP_OUTPUT_DIR; exit 7"}})
    assert (second.kind, second.body["exit_code"]) == ("error", 7)
    assert "a b.txt" not in second.body["last_lines"]
    assert "secret-of-the-role" not in container.errors + container.log
    assert container.stop()[0] == 0


def test_a_deadline_of_five_seconds(function, api, s3):
    """The application would take sixty: an answer in time, with its partial results on S3."""
    function()
    answer = api.invoke({"env": {"MORE": "sleep 60"}}, seconds=5.0)
    assert answer.kind == "error" and answer.seconds < 5.0
    assert answer.body["exit_code"] == 124
    key = f"function/{answer.id}/attempt-1/node-0/made"
    assert s3.get_object(Bucket="bucket", Key=key)["Body"].read() == b"made\n"


def test_no_such_program_is_an_init_error(function, api):
    container = function(APP_BIN="/opt/nowhere")
    answer = api.answers.get(timeout=30)
    assert answer.kind == "init" and "/opt/nowhere" in answer.body["errorMessage"]
    assert container.code() == 127


def test_a_foreign_command_serves_itself(containers, lambda_image, api):
    """SCAR's image has its own server as CMD: the agent runs it and asks for no invocation."""
    env = {"AWS_LAMBDA_RUNTIME_API": api.address, "EXEC_TYPE": "lambda"}
    done = containers.run(lambda_image, "echo", "supervisor", env=env, options=AS_LAMBDA)
    assert (done.returncode, done.stdout) == (0, "supervisor\n")
    assert api.asked.empty()
