"""The agent as a Lambda function: events in, answers out, nothing left between two of them."""

import base64
import contextlib
import json
import os
import signal
from pathlib import Path
from urllib.parse import quote_plus

import psutil
import pytest

from tests.support.basics import REPOSITORY, slow, until
from tests.support.s3proxy import FailingS3


def stored(s3, answer):
    """Return what lies on S3 for an answer: {name: content}."""
    prefix = f"function/{answer.id}/attempt-1/"

    def read(key):
        return s3.client().get_object(Bucket="bucket", Key=key)["Body"].read()

    return {key.removeprefix(prefix): read(key) for key in s3.keys("bucket", prefix)}


def put(s3, key, data):
    s3.client().put_object(Bucket="bucket", Key=key, Body=data)


def below(process):
    """Return the processes that a process has started: {pid: command line}."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            found[child.pid] = " ".join(child.cmdline())
    return found


def test_an_answer(function, invoke, s3):
    function()
    answer = invoke("echo hello; echo result > $TMP_OUTPUT_DIR/result.txt")
    assert answer.kind == "response"
    body = answer.body
    assert (body["exit_code"], body["source"], body["missing"]) == (0, "application", [])
    assert body["output"] == f"s3://bucket/function/{answer.id}/attempt-1"
    assert [file["name"] for file in body["files"]] == ["result.txt", "time.log"]
    assert body["last_lines"][:2] == ["hello", ""] and body["times"]["real"] > 0
    found = stored(s3, answer)
    assert found["node-0/result.txt"] == b"result\n"
    assert found["node-0/time.log"].startswith(b"hello\n\nreal\t")
    assert json.loads(found["manifest.json"])["job"] == answer.id


def test_a_failure_is_a_failed_invocation(function, invoke, s3):
    function()
    answer = invoke("seq 100; echo part > $TMP_OUTPUT_DIR/part; exit 3")
    assert answer.kind == "error"
    body = answer.body
    assert (body["errorType"], body["exit_code"]) == ("ApplicationFailed", 3)
    assert body["source"] == "application" and "3" in body["errorMessage"]
    assert len(body["last_lines"]) == 50 and "100" in body["last_lines"]
    assert stored(s3, answer)["node-0/part"] == b"part\n"
    assert invoke("exit 0").kind == "response"


@pytest.mark.parametrize("key", ["in/data.txt", "a b/ü+&%41.txt"])
def test_an_s3_event_brings_its_object(function, api, s3, key):
    put(s3, key, b"content of the object\n")
    function(SCRIPT='cat "$INPUT_FILE_PATH"; echo; echo "$APP_IN_FILE"', APP_PARAMS="")
    record = {"bucket": {"name": "bucket"}, "object": {"key": quote_plus(key, safe="/")}}
    answer = api.invoke({"Records": [{"eventSource": "aws:s3", "s3": record}]})
    assert answer.kind == "response", answer.body
    assert answer.body["last_lines"][0] == "content of the object"
    assert answer.body["last_lines"][2].endswith(f"/tmp/input/{key.rpartition('/')[2]}")
    assert key.rpartition("/")[2] not in [file["name"] for file in answer.body["files"]]


def test_the_older_form_is_given_the_input(function, api, s3, root):
    """By EventBridge here, whose events have their keys as they are."""
    put(s3, "in/a+b.txt", b"x")
    function(APP_BIN="/bin/echo", APP_PARAMS1="one")
    detail = {"bucket": {"name": "bucket"}, "object": {"key": "in/a+b.txt"}}
    answer = api.invoke({"source": "aws.s3", "detail": detail, "detail-type": "Object Created"})
    assert answer.body["last_lines"][0] == f"{root}/tmp/input/a+b.txt one {root}/tmp"


def test_an_event_of_ones_own(function, api, s3):
    put(s3, "given", b"given\n")
    function(SCRIPT='cat "$INPUT_FILE_PATH"; for word; do echo "<$word>"; done')
    event = {"params": ["a b", 7], "input": "s3://bucket/given", "output": "s3://bucket/else/where"}
    answer = api.invoke(event)
    assert answer.body["output"] == f"s3://bucket/else/where/{answer.id}/attempt-1"
    assert answer.body["last_lines"][:1] == ["given"]


def test_params_are_arguments(function, api):
    function(APP_BIN="/usr/bin/printf")
    answer = api.invoke({"params": ["<%s>", "a b", 7, "$HOME;*"]})
    assert answer.body["last_lines"][0] == "<a b><7><$HOME;*>"
    answer = api.invoke({"params": "'<%s>' 'c d' e"})
    assert answer.body["last_lines"][0] == "<c d><e>"


@pytest.mark.parametrize(
    ("event", "values"),
    [
        ("no json", ["event", "not JSON"]),
        ({"params": {"a": 1}}, ["params", "{'a': 1}"]),
        ({"params": "it's"}, ["APP_PARAMS", "it's"]),
        ({"input": "http://x/y"}, ["input", "http://x/y"]),
        ({"input": "s3://bucket/folder/.."}, ["input", "s3://bucket/folder/.."]),
        ({"output": "s3://"}, ["output", "s3://"]),
        ({"env": {"LD_PRELOAD": "x"}}, ["LD_PRELOAD", "ARCHITRAVE_EVENT_ENV"]),
        ({"env": {"SCRIPT": 1}}, ["SCRIPT", "1"]),
        ({"Records": [{"eventSource": "aws:sqs"}]}, ["SQS"]),
        ({"Records": []}, ["Records"]),
        ({"param": "x"}, ["param", "params", "an S3 event"]),
        ("text", ["not JSON"]),
        ([], ["a list"]),
        ({"env": {"OMP_TOOL_LIBRARIES": "/tmp/input/x.so"}}, ["OMP_TOOL_LIBRARIES"]),
        ({"input": "s3://bucket/not/there"}, ["s3://bucket/not/there"]),
    ],
    ids=str,
)
def test_a_bad_event_is_named(function, api, event, values):
    function(SCRIPT="true")
    answer = api.invoke(event)
    assert answer.kind == "error"
    assert answer.body["errorType"] == "AgentFailed" and answer.body["exit_code"] in (64, 66, 78)
    text = answer.body["errorMessage"] + answer.body["hint"]
    assert [value for value in values if value not in text] == []
    assert api.invoke({}).kind == "response"


def test_the_body_of_a_function_url(function, api):
    """Its parameters arrive, in base64 too; without a body it is the default job."""
    function(APP_BIN="/usr/bin/printf", APP_PARAMS="default")
    url = {"version": "2.0", "rawPath": "/", "requestContext": {"http": {"method": "POST"}}}
    body = json.dumps({"params": ["<%s>", "a"]})
    assert api.invoke(url | {"body": body}).body["last_lines"][0] == "<a>"
    coded = base64.b64encode(body.encode()).decode()
    answer = api.invoke(url | {"body": coded, "isBase64Encoded": True})
    assert answer.body["last_lines"][0] == "<a>"
    assert api.invoke(url).body["last_lines"][0] == "default"
    assert api.invoke(url | {"body": "a=1"}).body["exit_code"] == 64


def test_an_object_announced_by_sns_and_sqs(function, api, s3):
    put(s3, "in/queued", b"queued\n")
    function(SCRIPT='cat "$INPUT_FILE_PATH"', APP_PARAMS="")
    described = {"bucket": {"name": "bucket"}, "object": {"key": "in/queued"}}
    notification = json.dumps({"Records": [{"eventSource": "aws:s3", "s3": described}]})
    message = json.dumps({"Type": "Notification", "Message": notification})
    answer = api.invoke({"Records": [{"eventSource": "aws:sqs", "body": message}]})
    assert answer.body["last_lines"][0] == "queued"


def test_a_folder_in_the_bucket_runs_nothing(function, api):
    function(SCRIPT="exit 9")
    described = {"bucket": {"name": "bucket"}, "object": {"key": "new/", "size": 0}}
    answer = api.invoke({"Records": [{"eventSource": "aws:s3", "s3": described}]})
    assert answer.kind == "response" and "folder" in answer.body["note"]


def test_a_test_event_of_s3_runs_nothing(function, api):
    function(SCRIPT="exit 9")
    assert api.invoke({"Service": "Amazon S3", "Event": "s3:TestEvent"}).kind == "response"


@pytest.mark.parametrize(
    ("script", "seconds"),
    [("sleep 60", 5.0), slow("trap '' TERM; while :; do sleep 1; done", 20.0)],
)
def test_a_deadline_ends_the_application(function, invoke, s3, script, seconds):
    """An answer before the end, with the results that there are, also if SIGTERM is ignored."""
    function()
    invoke("true")
    answer = invoke(f"echo part > $TMP_OUTPUT_DIR/part; {script}", seconds=seconds)
    assert answer.kind == "error" and answer.seconds < seconds
    assert answer.body["exit_code"] == 124 and "time limit" in answer.body["errorMessage"]
    assert "part" in [file["name"] for file in answer.body["files"]]
    assert stored(s3, answer)["node-0/part"] == b"part\n"


def test_nothing_is_left_for_the_next(function, invoke, root):
    process = function()
    leave = """
        setsid sleep 1000 & (sleep 1000 &) ; echo $$ > /dev/null
        mkdir -p $TMP_OUTPUT_DIR/closed/deep; echo x > $TMP_OUTPUT_DIR/closed/deep/file
        chmod 500 $TMP_OUTPUT_DIR/closed/deep; chmod 0 $TMP_OUTPUT_DIR/closed
        ln -s / $TMP_OUTPUT_DIR/link; mkfifo $TMP_OUTPUT_DIR/pipe
    """
    answer = invoke(leave)
    if os.geteuid() == 0:
        assert answer.kind == "response"
    else:  # as on Lambda: results that this user can't read are lost, and named
        assert (answer.kind, answer.body["exit_code"]) == ("error", 73)
        assert any("closed" in str(one) for one in answer.body["missing"])
    seen = invoke("ls -A $TMP_OUTPUT_DIR; ps -e -o args | grep 'sleep [1]000' || true")
    assert "sleep 1000" not in seen.body["last_lines"]
    names = [line for line in seen.body["last_lines"] if line]
    listed = names[: names.index("time.log") + 1]
    # The agent's own: its directory, and its log where the file system has no unnamed files.
    assert [name for name in listed if not name.startswith(".architrave-")] == ["time.log"], names
    assert not [line for line in below(process).values() if "sleep" in line]


def test_an_environment_that_was_killed_starts_clean(function, invoke, api, root):
    process = function()
    assert invoke("true").kind == "response"
    api.begin({"env": {"SCRIPT": "echo secret > $TMP_OUTPUT_DIR/secret; sleep 60"}})
    until((root / "tmp/secret").exists)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    function()
    assert invoke("test ! -e $TMP_OUTPUT_DIR/secret").kind == "response"


def test_the_application_knows_no_secret_and_no_api(function, invoke):
    function()
    lines = invoke("env").body["last_lines"]
    names = {line.partition("=")[0] for line in lines}
    assert not names & {"AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_LAMBDA_RUNTIME_API"}
    assert {"TMP_OUTPUT_DIR", "AWS_LAMBDA_REQUEST_ID", "_X_AMZN_TRACE_ID"} <= names


@pytest.mark.parametrize(
    ("env", "code", "value"),
    [
        ({"APP_BIN": "/opt/nowhere", "ARCHITRAVE_EVENT_ENV": ""}, 127, "/opt/nowhere"),
        ({"ARCHITRAVE_LAUNCHER": "magic"}, 78, "magic"),
        ({"ARCHITRAVE_OUTPUT": "ftp://x"}, 78, "ftp://x"),
    ],
    ids=["application", "choice", "destination"],
)
def test_what_can_never_run_is_an_init_error(function, api, env, code, value):
    process = function(**env)
    answer = api.answers.get(timeout=30)
    assert answer.kind == "init" and value in answer.body["errorMessage"]
    assert process.wait(30) == code


def test_stopped_while_idle(function, invoke, api):
    process = function()
    invoke("true")
    until(lambda: api.asked.qsize() == 2)
    process.terminate()
    assert process.wait(30) == 0


def test_stopped_in_a_call(function, api, root, s3):
    process = function()
    api.begin({"env": {"SCRIPT": "touch $TMP_OUTPUT_DIR/there; exec sleep 60"}})
    until((root / "tmp/there").exists)
    process.terminate()
    answer = api.answers.get(timeout=30)
    assert answer.kind == "error" and answer.body["exit_code"] == 143
    assert "node-0/there" in stored(s3, answer)
    assert process.wait(30) == 143


def test_an_api_that_is_gone_ends_the_environment(function, invoke, api):
    process = function()
    invoke("true")
    api.close()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 71 and "cannot serve AWS Lambda" in errors


def test_many_calls_cost_no_descriptor(function, invoke, api):
    process = function()

    def open_when_idle(calls):
        # The answer comes before the call's last descriptors are closed; the next question after.
        until(lambda: api.asked.qsize() == calls + 1)
        return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))

    invoke("true")
    before = open_when_idle(1)
    for _ in range(10):
        assert invoke("true").kind == "response"
    assert open_when_idle(11) <= before + 1


def test_a_helper_that_was_killed_is_no_loss(function, invoke):
    process = function()
    invoke("true")
    for pid in [pid for pid, line in below(process).items() if "spare" in line]:
        os.kill(pid, signal.SIGKILL)
    assert invoke("true").kind == "response"


def test_the_server_s_client_that_was_killed_is_no_loss(function, api, root):
    process = function()
    script = "touch $TMP_OUTPUT_DIR/there; sleep 1; echo done"
    api.begin({"env": {"SCRIPT": script}})
    until((root / "tmp/there").exists)
    for pid in [pid for pid, line in below(process).items() if "runtime_api" in line]:
        os.kill(pid, signal.SIGKILL)
    answer = api.answers.get(timeout=30)
    assert answer.kind == "response" and "done" in answer.body["last_lines"]
    assert api.invoke({"env": {"SCRIPT": "true"}}).kind == "response"


def test_every_call_has_the_image_s_directory(function, invoke, tmp_path, root):
    (tmp_path / "workdir").mkdir()
    function(cwd=tmp_path / "workdir", PYTHONPATH=str(REPOSITORY))
    for _ in range(2):
        assert invoke("pwd").body["last_lines"][0] == str(tmp_path / "workdir")


def test_an_output_directory_that_cannot_be_written(function, invoke, root):
    (root / "tmp").mkdir(exist_ok=True)
    (root / "tmp/file").write_text("")
    function(TMP_OUTPUT_DIR=str(root / "tmp/file/out"))
    answer = invoke("true")
    assert answer.kind == "error" and answer.body["exit_code"] == 73
    assert "TMP_OUTPUT_DIR" in answer.body["hint"]


def test_a_slow_input_takes_its_time_from_the_application(function, api, s3, tmp_path):
    put(s3, "slow", b"x" * 1000)
    with FailingS3(s3.endpoint) as proxy:
        proxy.rule("GET", "slow", stall=3.0, times=1)
        function(AWS_ENDPOINT_URL_S3=proxy.endpoint, SCRIPT="sleep 60")
        answer = api.invoke({"input": "s3://bucket/slow"}, seconds=9.0)
    assert answer.kind == "error" and answer.seconds < 9.0
    assert answer.body["exit_code"] == 124 and answer.body["times"]["real"] < 5


def test_an_input_that_never_comes(function, api, s3):
    put(s3, "slow", b"x" * 1000)
    with FailingS3(s3.endpoint) as proxy:
        proxy.rule("GET", "slow", stall=30.0, times=9)
        function(AWS_ENDPOINT_URL_S3=proxy.endpoint, SCRIPT="true")
        answer = api.invoke({"input": "s3://bucket/slow"}, seconds=4.0)
    assert answer.kind == "error" and answer.seconds < 4.0
    assert answer.body["exit_code"] in (69, 124)


def test_what_an_event_may_set_by_default(function, api):
    function(ARCHITRAVE_EVENT_ENV=None, SCRIPT="echo $OMP_NUM_THREADS")
    answer = api.invoke({"env": {"OMP_NUM_THREADS": "3"}})
    assert answer.body["last_lines"][0] == "3"
    assert "APP_BIN" in api.invoke({"env": {"APP_BIN": "/bin/sh"}}).body["errorMessage"]


def test_a_large_event(function, api):
    function(SCRIPT="true")
    assert api.invoke({"else": "ы" * 10**6}).body["exit_code"] == 64
    answer = api.invoke({"params": {"a": "ы" * 10**6}})
    assert answer.body["exit_code"] == 64


def test_calls_that_fail_to_start_cost_no_descriptor(function, api, root):
    (root / "opt/foreign").write_bytes(b"\x7fELF" + bytes(100))
    process = function(APP_BIN="/opt/foreign", APP_PARAMS="")

    def open_when_idle(calls):
        until(lambda: api.asked.qsize() == calls + 1)  # it asks when the last call is cleared away
        return len(os.listdir(f"/proc/{process.pid}/fd"))

    assert api.invoke({}).body["exit_code"] == 126
    before = open_when_idle(1)
    for _ in range(5):
        assert api.invoke({}).kind == "error"
    assert abs(open_when_idle(6) - before) <= 1


def test_another_server_leaves_the_job_alone(function, api, root):
    """faas-supervisor serves the API itself, and starts a job for each call."""
    process = function(TMP_INPUT_DIR=str(root), SCRIPT="exit 4")
    assert process.wait(30) == 4
    assert api.asked.empty() and api.answers.empty()
