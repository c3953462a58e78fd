"""SCAR's way on AWS Lambda: the image in udocker, unprivileged, read-only but for /tmp."""

import base64
import json

import pytest

from tests.image.test_start import time_log
from tests.support.scar import USER

# The first test builds the images and the function.
pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

HELPER = """\
# export AWS_BATCH_JOB_NUM_NODES=1
# export AWS_BATCH_JOB_NODE_INDEX=0
# export AWS_BATCH_JOB_MAIN_NODE_INDEX=0
export PRIVATE_PASSWD=''
export APP_BIN='/bin/sh'
export APP_PARAMS='-c "echo in $EXEC_TYPE; touch /usr/x; echo kept >$TMP_OUTPUT_DIR/result; exit 3"'
bash /opt/run.sh
"""


@pytest.fixture
def invoke(containers, account_image, function, bucket, s3_env):
    """Return what gives an event to the function, in a container that is as Lambda's."""
    work, _ = function
    options = (
        *("--network", "host", "--user", str(USER), "--read-only", "--cap-drop", "ALL"),
        *("--security-opt", "no-new-privileges", "--tmpfs", "/tmp:exec,mode=1777,size=512m"),
        *("-v", f"{work}/task:/var/task:ro", "-v", f"{work}/account.json:/account.json:ro"),
    )

    def run(event, way="handler"):
        argv = ("python3", "/opt/function.py", "/account.json", json.dumps(event), way)
        env = s3_env | {"AWS_DEFAULT_REGION": "us-east-1"}
        return containers.run(account_image, *argv, env=env, options=options, timeout=100)

    return run


def script(text):
    """Return the event that `scar run` sends for a run_script."""
    return {"script": base64.b64encode(text.encode()).decode()}


def answer(done):
    """Return what the function answers: the container's output."""
    assert done.returncode == 0, done.stdout + done.stderr
    response = json.loads(done.stdout.splitlines()[-1])
    assert response["statusCode"] == 200
    return base64.b64decode(response["body"]).decode()


def test_run_script(invoke, s3, bucket, tmp_path):
    """`scar run`: the answer is the application's output, time.log and results are on S3."""
    output = answer(invoke(script(HELPER)))
    assert "in lambda\n" in output
    s3.download(bucket, "output/", tmp_path)
    lines, times = time_log(tmp_path)
    assert (lines[0], times) == ("in lambda", ["real", "user", "sys"])
    assert (tmp_path / "result").read_text() == "kept\n"


def test_exit_code(invoke):
    """The container that faas-supervisor starts ends with the application's code."""
    done = invoke(script(HELPER), "command")
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1] == "['result', 'run.json', 'time.log']"


def test_the_function_s_own_script(invoke, s3, bucket, tmp_path):
    """An upload has the function run the run_helper.sh of the example, unchanged."""
    path = tmp_path / "object"
    path.write_text("any\n")
    s3.put_file(bucket, "input/object", path)
    stored = {
        "bucket": {"name": bucket, "arn": f"arn:aws:s3:::{bucket}"},
        "object": {"key": "input/object"},
    }
    record = {"eventSource": "aws:s3", "eventTime": "2026-01-01T00:00:00.000Z", "s3": stored}
    assert answer(invoke({"Records": [record]})).startswith("Linux ")


def test_arguments_go_to_the_entry_point(invoke):
    """`scar run … ARG…` passes the arguments to the image's ENTRYPOINT, the agent."""
    done = invoke({"cmd_args": json.dumps(["/bin/sh", "-c", "echo a  'b  c'; exit 4"])}, "command")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "\na b  c\n" in done.stdout


def test_no_other_process_is_killed(invoke):
    """A job ends what its application left behind, and neither the shell nor the agent around it.

    proot answers for itself where a process asks for /proc/thread-self.
    """
    job = """APP_BIN=/bin/sh APP_PARAMS="-c 'sleep 60 & exit 5'" bash /opt/run.sh; echo after $?"""
    done = invoke({"cmd_args": json.dumps(["/bin/sh", "-c", f"{job}; exit 6"])}, "command")
    assert done.returncode == 6, done.stdout + done.stderr
    assert "after 5\n" in done.stdout
    assert "signal 9" not in done.stderr
