"""Password, private key and AWS secret stay where they are needed."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.cluster.conftest import ranks, wait_ready
from tests.conftest import PASSWORD

pytestmark = pytest.mark.timeout(120)

SCAN = (Path(__file__).parent / "scan.py").read_text()


def scan(container, needles):
    """Return what is found in the processes of a container."""
    done = subprocess.run(
        ["docker", "exec", "-i", container, "/usr/bin/python3", "-c", SCAN],
        input=json.dumps(needles),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return json.loads(done.stdout)


def key_of(keys):
    """Return a line from the middle of the private key."""
    lines = (keys / "ssh_host_rsa_key").read_text().splitlines()
    return lines[len(lines) // 2]


def test_no_secret_in_any_process(cluster, image, keys):
    """In the run the password is in nothing but PID 1, the AWS secret in the agent's processes."""
    with cluster(image, "hold") as running:
        wait_ready(running, 3)
        secret = running.s3.secret_key
        needles = {"password": PASSWORD, "key": key_of(keys), "aws": secret}
        for node in running.nodes.values():
            answer = scan(node.name, needles)
            assert answer["processes"] > 3  # the agent, sshd, a link, the application
            assert {tuple(entry) for entry in answer["found"]} == {
                ("agent", "environ", "password"),
                ("agent", "environ", "aws"),
                *([("helper", "environ", "aws")] if node is not running.nodes[0] else []),
            }
        running.stop()
        result = running.wait()
    for one in ranks(result):
        assert "PRIVATE_PASSWD" not in one["env"]
        assert "AWS_SECRET_ACCESS_KEY" not in one["env"]
        assert secret not in json.dumps(one)


def test_no_secret_in_what_is_left(cluster, place, meet, keys):
    """No log, no record and no object on S3 holds a secret, not even of a job that logs all."""
    env = {"ARCHITRAVE_LOG_LEVEL": "debug"}
    with cluster(place, f"{meet} 3", env=env) as running:
        result = running.wait()
        secrets = [PASSWORD, key_of(keys), running.s3.secret_key]
        # What the environment of a rank shows is a result as well.
        objects = list(running.s3.keys("architrave"))
    assert result.code == 3
    assert len(result.files) >= 6
    # private.7z itself is the only object that isn't a result.
    assert len(objects) == len(result.files) + 1
    texts = [path.read_bytes() for path in result.results.rglob("*") if path.is_file()]
    for secret in secrets:
        assert not [text for text in texts if secret.encode() in text]
        assert not [text for text in texts if json.dumps(secret)[1:-1].encode() in text]
