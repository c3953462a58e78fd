"""Which way leads to S3: single requests without a library, obstore, or boto3 for all else."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.basics import REPOSITORY
from tests.support.s3proxy import FailingS3

SCRIPT = """
import json, os, sys
from agent.core.s3_uri import S3Uri
from agent.staging.s3 import LARGE, Storage
events = []
storage = Storage(events.append, path_style=True)
uri = S3Uri("bucket", "ways/" + sys.argv[1])
size = int(sys.argv[2])
if size < LARGE:
    storage.put(bytes(size), uri, "text/html; charset=utf-8")
else:
    open("large", "wb").write(bytes(size))
    storage.put_file("large", uri, lambda count: None)
before = sorted({"boto3", "botocore", "urllib3"} & sys.modules.keys())
found = storage.fetch(uri, "fetched")
assert os.path.getsize("fetched") == size
assert size >= LARGE or storage.read(uri) == bytes(size)
storage.remove(uri)
loaded = sorted({"boto3", "botocore", "urllib3"} & sys.modules.keys())
found = {"loaded": loaded, "before": before, "checked": found["checked"], "events": events}
print(json.dumps(found))
"""


@pytest.fixture
def proxy(s3):
    with FailingS3(s3.endpoint) as server:
        yield server


@pytest.fixture
def go(s3_env, proxy, tmp_path):
    """Return what puts, fetches, reads and removes an object: what it found on the way."""

    def run(name, size=1000, **env):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, name, str(size)],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "PYTHONPATH": str(REPOSITORY),
                **s3_env,
                "AWS_ENDPOINT_URL_S3": proxy.endpoint,
                **env,
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def asked(proxy):
    return [request.split()[0] for request in proxy.requests]


def test_what_is_small_takes_a_request_and_no_library(go, proxy):
    found = go("small name/ä+b")
    assert found["loaded"] == []
    assert asked(proxy) == ["PUT", "GET", "GET", "DELETE"]
    assert "size" in found["checked"] and len(found["checked"]) == 2
    assert [event["event"] for event in found["events"]] == ["fetch_started", "progress"]


def test_the_wrong_content_is_fetched_again(go, proxy):
    """By boto3, which checks as well."""
    proxy.rule("GET", "small", times=1, change=True)
    found = go("small")
    assert "boto3" in found["loaded"]


@pytest.mark.parametrize("fault", [{"status": 503, "code": "SlowDown"}, {"reset": True}])
@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
def test_boto3_gets_over_what_fails(go, proxy, method, fault):
    proxy.rule(method, "small", times=2, **fault)
    assert "boto3" in go("small")["loaded"]


def test_a_connection_that_s3_has_closed(go, proxy):
    """One that was idle: the request is sent once more, by a new one."""
    proxy.rule("GET", "small", times=1, reset=True)
    found = go("small")
    assert found["loaded"] == [] and asked(proxy).count("GET") == 3


def test_a_large_object_s_parts_are_checked(go):
    """It went up in parts, so that its checksum is one of theirs."""
    size = 40_000_000
    found = go("large", size)
    assert found["before"] and len(found["checked"]) == 2
    assert "fetch_fallback" not in [event["event"] for event in found["events"]]


def test_settings_in_a_file_are_boto3_s(go, tmp_path):
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text("[default]\nregion = us-east-1\n")
    assert "boto3" in go("small")["loaded"]
