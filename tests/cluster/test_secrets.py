"""Password, private key and AWS secret stay where they are needed."""

import json
import signal
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
        ["docker", "exec", "-i", container, "/opt/architrave/bin/python3", "-c", SCAN],
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


@pytest.mark.cell("security.secrets", "security.removed")
def test_no_secret_gets_out(cluster, image, keys):
    """In the run the password and the AWS secret are in PID 1 alone; then neither, nor the
    private key, is in any log, record, result or other object on S3.
    """
    with cluster(image, "hold", env={"ARCHITRAVE_LOG_LEVEL": "debug"}) as running:
        wait_ready(running, 3)
        secrets = {"password": PASSWORD, "key": key_of(keys), "aws": running.s3.secret_key}
        for node in running.nodes.values():
            answer = scan(node.name, secrets)
            assert answer["processes"] > 3  # the agent, sshd, a session, the application
            assert {tuple(entry) for entry in answer["found"]} == {
                ("agent", "environ", "password"),
                ("agent", "environ", "aws"),
            }
        for node in running.nodes.values():
            node.signal(signal.SIGTERM)
        result = running.wait()
        objects = list(running.s3.keys("architrave"))
    # Among the results is the environment of every rank. private.7z is no result.
    assert len(ranks(result)) == 3
    assert len(objects) == len(result.files) + 1
    texts = [path.read_bytes() for path in result.results.rglob("*") if path.is_file()]
    assert len(texts) == len(result.files) + 7  # and the logs
    for secret in secrets.values():
        for form in (secret, json.dumps(secret)[1:-1]):
            assert not [text for text in texts if form.encode() in text]
