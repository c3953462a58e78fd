"""SCAR's other way on AWS Lambda, `runtime: image`: its supervisor as our ENTRYPOINT's command."""

import base64

import pytest

from tests.image.test_start import time_log
from tests.scar.test_lambda import HELPER, script
from tests.support.containers import docker

# The first test builds the images.
pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

AS_LAMBDA = ("--read-only", "--tmpfs", "/tmp:mode=1777", "--user", "993", "--network", "host")


@pytest.fixture
def invoke(containers, function_image, api, bucket, s3_env):
    """Return what gives an event to the function, and returns its answer."""
    account, image = function_image
    (function,) = account["functions"]
    env = function["Environment"]["Variables"] | s3_env
    env |= {
        "AWS_LAMBDA_RUNTIME_API": api.address,
        "AWS_EXECUTION_ENV": "AWS_Lambda_Image",
        "AWS_LAMBDA_FUNCTION_NAME": function["FunctionName"],
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function["MemorySize"]),
        "AWS_LAMBDA_FUNCTION_VERSION": "1",
        "AWS_LAMBDA_LOG_GROUP_NAME": "group",
        "AWS_LAMBDA_LOG_STREAM_NAME": "stream",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    container = containers.start(image, env=env, options=AS_LAMBDA)

    def run(event):
        answer = api.invoke(event, 60)
        assert answer.kind == "response", (answer, container.errors)
        assert answer.body["statusCode"] == 200
        return base64.b64decode(answer.body["body"]).decode()

    return run


def test_scar_leaves_our_entry_point(function_image):
    entry = docker(
        "inspect", "--format", "{{.Config.Entrypoint}} {{.Config.Cmd}}", function_image[1]
    )
    assert entry.split() == ["[/opt/architrave/bin/architrave]", "[supervisor]"]


def test_two_events(invoke, s3, bucket, tmp_path):
    """The agent in the helper runs one job for each event, and leaves the Runtime API alone."""
    output = invoke(script(HELPER))
    assert "in lambda\n" in output
    s3.download(bucket, "output/", tmp_path)
    lines, times = time_log(tmp_path)
    assert (lines[0], times) == ("in lambda", ["real", "user", "sys"])
    assert (tmp_path / "result").read_text() == "kept\n"
    again = invoke(script(HELPER.replace("in $EXEC_TYPE", "again")))
    assert again.count("again\n") == 1 and "in lambda" not in again


def test_the_function_s_own_script(invoke):
    """Any other event runs the run_helper.sh of the example, unchanged."""
    assert invoke({"any": "event"}).startswith("Linux ")
