"""Password, private key and AWS secret stay where they are needed."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.basics import PASSWORD
from tests.support.clusters import ranks, wait_ready

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
    """In the run the password and the AWS secret are in PID 1 only; then neither, nor the
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
    # Among the results is the environment of every rank. private.7z is not a result.
    assert len(ranks(result)) == 3
    assert len(objects) == len(result.files) + 1
    texts = [path.read_bytes() for path in result.results.rglob("*") if path.is_file()]
    assert len(texts) == len(result.files) + 7  # and the logs
    for secret in secrets.values():
        for form in (secret, json.dumps(secret)[1:-1]):
            assert not [text for text in texts if form.encode() in text]


# It is a process for as long as it takes to look at it: what it was given, and by which process.
SEVEN_ZIP = """#!/bin/sh
cat /proc/$$/cmdline /proc/$PPID/cmdline >{seen}/$$.cmdlines
cat /proc/$$/environ /proc/$PPID/environ >{seen}/$$.environ
exec {real} "$@"
"""


@pytest.mark.cell("security.secrets")
def test_7_zip_is_given_no_password(job, s3, s3_env, private, tmp_path):
    """The password is in no argument and no variable of 7-Zip's, nor of the helper that runs it."""
    programs, seen = tmp_path / "programs", tmp_path / "seen"
    programs.mkdir()
    seen.mkdir()
    (programs / "7zz").write_text(SEVEN_ZIP.format(seen=seen, real=shutil.which("7zz")))
    (programs / "7zz").chmod(0o755)
    s3.put_file("bucket", "secrets/private.7z", private)
    env = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "EXEC_TYPE": "batch",
        "APP_BIN": "/bin/sh",
        "APP_PARAMS": "-c 'exit 4'",
        "S3_BUCKET": "s3://bucket/secrets",
        "S3_BATCH_DEPS_REL_PATH": "<none>",
        "S3_BATCH_PRIVATE_REL_PATH": "private.7z",
        "ARCHITRAVE_LAUNCHER": "direct",
        "ARCHITRAVE_OUTPUT": "<none>",
        "PRIVATE_PASSWD": PASSWORD,
    }
    code, _, err = job(**s3_env, **env)
    assert code == 4, err
    cmdlines = [path.read_bytes() for path in seen.glob("*.cmdlines")]
    environs = [path.read_bytes() for path in seen.glob("*.environ")]
    # Its names are encrypted too: without the password it could do neither.
    assert {line.split(b"\0")[2] for line in cmdlines} == {b"l", b"x"}
    assert all(b"helper.py" in line for line in cmdlines)
    assert all(b"PATH=" in environ for environ in environs)
    assert not [text for text in (*cmdlines, *environs) if PASSWORD.encode() in text]
