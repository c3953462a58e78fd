"""An endpoint for a container's credentials that throttles, stalls, fails or refuses."""

import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.faults.test_s3 import COMPLETE, KEY, SCRIPT, first_error, records, uploaded
from tests.support.basics import pack, slow


class Endpoint:
    """What Amazon ECS has at AWS_CONTAINER_CREDENTIALS_FULL_URI.

    The next answers are those of `answers`, a status each (0: none within the client's patience);
    then come the credentials.
    """

    def __init__(self, s3):
        self.answers = []
        self.asked = 0
        self._ended = threading.Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                endpoint.asked += 1
                status = endpoint.answers.pop(0) if endpoint.answers else 200
                if not status:
                    endpoint._ended.wait(30)
                    return
                expires = datetime.now(UTC) + timedelta(hours=6)
                body = json.dumps(
                    {
                        "AccessKeyId": s3.access_key,
                        "SecretAccessKey": s3.secret_key,
                        "Token": "",
                        "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
                    }
                    if status == 200
                    else {"code": "Throttled" if status == 429 else "Failed"}
                ).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/role"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Failing(list):
    """The same answer for ever."""

    def __init__(self, status):
        super().__init__([status])

    def pop(self, *_):
        return self[0]


@pytest.fixture
def endpoint(s3):
    with Endpoint(s3) as running:
        yield running


@pytest.fixture
def batch(s3, s3_env, endpoint, keys, tmp_path):
    """Return the environment of a job that has its credentials from the endpoint."""
    prefix = os.urandom(4).hex()
    s3.put_file("bucket", f"{prefix}/{KEY}", pack(keys, tmp_path / "private.7z"))
    given = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    env = {name: value for name, value in s3_env.items() if name not in given}
    return env | {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": endpoint.url,
        "AWS_EC2_METADATA_DISABLED": "true",
        "EXEC_TYPE": "batch",
        "AWS_BATCH_JOB_ID": f"job-{prefix}",
        "S3_BUCKET": f"s3://bucket/{prefix}",
        "S3_BATCH_DEPS_REL_PATH": "<none>",
        "ARCHITRAVE_LAUNCHER": "direct",
        "APP_BIN": "/bin/sh",
        "APP_PARAMS": f"-c '{SCRIPT}'",
    }


@pytest.fixture
def run(agent, batch, endpoint, tmp_path):
    """Return what runs a job; `answers` are the endpoint's when the application runs."""

    def start(answers=None, timeout=110, **env):
        here, go_on = tmp_path / "here", tmp_path / "go-on"
        script = f"{SCRIPT.partition(';')[0]}; : >{here}; until [ -e {go_on} ]; do sleep 0.02; done"
        script += ";" + SCRIPT.partition(";")[2]
        process = agent("run", env=batch | env | {"APP_PARAMS": f"-c '{script}'"})
        deadline = time.monotonic() + timeout
        while not here.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if answers is not None:
            endpoint.answers = answers
        go_on.touch()
        out, err = process.communicate(timeout=timeout)
        return process.returncode, out, err

    return start


@pytest.mark.cell("s3.credentials")
@pytest.mark.parametrize("answers", [[429] * 5, [503, 500], [0, 0, 0]], ids=["429", "5xx", "stall"])
def test_at_the_start(run, endpoint, s3, batch, tmp_path, answers):
    """The job waits, then goes on."""
    endpoint.answers = answers
    code, out, err = run()
    assert code == 0 and out.startswith("ran\n"), err
    assert set(uploaded(s3, batch, tmp_path)) == COMPLETE


@pytest.mark.cell("s3.credentials")
@pytest.mark.parametrize("answers", [[429] * 5, slow([0] * 5)], ids=["429", "stall"])
def test_at_the_end(run, endpoint, s3, batch, tmp_path, answers):
    """Results wait for credentials, and go up."""
    code, _, err = run([*answers])
    assert code == 0, err
    assert set(uploaded(s3, batch, tmp_path)) == COMPLETE
    waited = [line for line in records(err) if line["event"] == "credentials_awaited"]
    assert waited and waited[0]["gives_up_after_seconds"] > 100


@pytest.mark.cell("s3.credentials")
@pytest.mark.slow
def test_throttled_for_ever(run, root, endpoint):
    """69 within the bound that the log states; nothing has run."""
    endpoint.answers = Failing(429)
    start = time.monotonic()
    code, out, err = run(AWS_MAX_ATTEMPTS="1")
    assert code == 69 and out == "", err
    # Once: the end of the job doesn't wait for them again.
    (waiting,) = (line for line in records(err) if line["event"] == "credentials_awaited")
    assert time.monotonic() - start < waiting["gives_up_after_seconds"]
    assert "429" in first_error(err)["message"] and first_error(err)["hint"]


@pytest.mark.cell("s3.credentials")
@pytest.mark.slow
def test_throttled_for_ever_at_the_end(run, root, s3, batch, endpoint, tmp_path):
    """69: nothing was refused. The results stay in place and are named."""
    code, _, err = run(Failing(429), AWS_MAX_ATTEMPTS="1")
    assert code == 69, err
    assert (root / "tmp/output/one").read_text() == "1\n"
    assert "manifest.json" not in uploaded(s3, batch, tmp_path)
    assert "one" in first_error(err)["message"] and "429" in first_error(err)["message"]


@pytest.mark.cell("s3.credentials")
@pytest.mark.parametrize("status", [slow(400), slow(401), 403])
def test_refused(run, endpoint, status):
    """A refusal is not waited for."""
    endpoint.answers = Failing(status)
    start = time.monotonic()
    code, out, err = run()
    assert code == 77 and out == "", err
    assert time.monotonic() - start < 30
    assert str(status) in first_error(err)["message"] and "role" in first_error(err)["hint"]


@pytest.mark.cell("s3.credentials")
@pytest.mark.slow
def test_nobody_there(run, endpoint):
    """An endpoint that isn't there is waited for too, and named in the end."""
    gone = "http://127.0.0.1:9/role"
    code, _, err = run(AWS_CONTAINER_CREDENTIALS_FULL_URI=gone, AWS_MAX_ATTEMPTS="1")
    assert code == 69, err
    assert "credentials" in first_error(err)["message"]
