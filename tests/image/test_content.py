"""What is in the image, what is not, and how it is built."""

import json
import shutil
import subprocess
import tarfile
import uuid

import pytest

from tests.support import once
from tests.support.basics import REPOSITORY
from tests.support.containers import LAMBDA, docker

pytestmark = pytest.mark.timeout(180)

LARGEST = 256_000_000


def inspect(image):
    return json.loads(docker("inspect", image))[0]["Config"]


def ls(containers, image, script):
    """Return the whitespace-separated output of a script in a container."""
    return containers.run(image, "sh", "-c", script).stdout.split()


def test_size(target):
    """The whole image, as it is sent, is smaller than 256 MB."""
    assert 0 < once.saved(target).stat().st_size < LARGEST


def test_labels(target):
    config = inspect(target)
    labels = config["Labels"]
    assert "architrave" in labels
    for name in ("title", "description", "version", "revision", "licenses"):
        assert labels[f"org.opencontainers.image.{name}"]
    assert config["Entrypoint"] == ["/opt/architrave/bin/architrave"]
    assert not config["Cmd"]


def test_programs_of_each_target(containers, image, lambda_image):
    """MPI and sshd are in the image for Batch, and not in the one for Lambda."""
    programs = "mpirun sshd ssh 7zz dpkg bash"
    script = f"for name in {programs}; do command -v $name >/dev/null && echo $name; done; true"
    assert ls(containers, image, script) == programs.split()
    assert ls(containers, lambda_image, script) == programs.split()[3:]


def test_build_date(containers, target):
    """/build_date is there, and a job says it at its start."""
    date = ls(containers, target, "cat /build_date")[0]
    env = {"EXEC_TYPE": "lambda", "APP_BIN": "/bin/true", "APP_PARAMS": ""}
    done = containers.run(target, env=env)
    assert done.returncode == 0
    assert date in done.stdout + done.stderr


def test_bytecode(containers, target):
    """Every module of the agent is compiled, so that nothing is at the start."""
    script = (
        "cd /opt/architrave/lib/python3*/dist-packages/agent && for file in $(find . -name '*.py');"
        "do ls $(dirname $file)/__pycache__/$(basename $file .py).*.pyc >/dev/null || echo $file;"
        "done; find . -name '*.py' | wc -l"
    )
    done = containers.run(target, "sh", "-c", script)
    assert done.stderr == ""
    (count,) = done.stdout.split()
    assert int(count) > 50


def test_no_key_and_no_private_file(containers, target):
    """No host key, no private key, nothing in /opt but the agent and its scripts."""
    assert ls(containers, target, "ls -A /opt") == ["architrave", "run.sh", "run_batch.sh"]
    assert not ls(containers, target, "ls -A /root/.ssh /etc/ssh/ssh_host_* 2>/dev/null")
    begin = "-----BEGIN [A-Z ]*PRIVATE KEY-----"
    script = f"grep -rIlE -e '^{begin}' /etc /opt /root /home /usr/local /usr/share /tmp /var; true"
    assert not ls(containers, target, script)
    history = docker("history", "--no-trunc", target)
    assert "PRIVATE" not in history.replace("ADD_PRIVATE_BASE_DIR", "")
    assert "PASSW" not in history.upper()


def test_no_file_in_any_layer_is_a_host_key(target):
    """A key that a package made is in no layer either: what a later layer removes is still sent."""
    found = []
    with tarfile.open(once.saved(target)) as image:
        (manifest,) = json.load(image.extractfile("manifest.json"))
        assert manifest["Layers"]
        for name in manifest["Layers"]:
            with tarfile.open(fileobj=image.extractfile(name)) as layer:
                found += [file.name for file in layer if "ssh_host_" in file.name and file.size]
    assert found == []


@pytest.fixture
def context(tmp_path):
    """Return a build context with the repository and private files side by side."""
    for name in ("agent", "docker"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, tmp_path / "architrave" / name, ignore=ignored)
    private = tmp_path / "private"
    (private / "examples").mkdir(parents=True)
    (private / "marker").write_text("private\n")
    (private / "examples/example").write_text("in file\n")
    # None of these may replace the agent's own.
    (private / "run.sh").write_text("echo replaced\n")
    (private / "architrave/bin").mkdir(parents=True)
    (private / "architrave/bin/architrave").write_text("#!/bin/sh\necho replaced\n")
    return tmp_path


@pytest.mark.slow
def test_build_with_private_files(containers, image, context):
    """The original's two build arguments: private files land in /opt, never over the agent."""
    tag = f"architrave-image-test:{uuid.uuid4().hex[:12]}"
    arguments = ["--build-arg", "ADD_BASE_DIR_ARCHITRAVE=architrave"]
    arguments += ["--build-arg", "ADD_PRIVATE_BASE_DIR=private", "--label", "architrave"]
    arguments += ["-f", str(context / "architrave/docker/Dockerfile"), "-t", tag, str(context)]
    try:
        docker("build", "-q", *arguments, timeout=170)
        names = ls(containers, tag, "ls /opt")
        assert names == ["architrave", "examples", "marker", "run.sh", "run_batch.sh"]
        # The older form of the parameters, with the example file as it is by default.
        env = LAMBDA | {"APP_BIN": "/usr/bin/head", "APP_PARAMS1": "/opt/marker", "APP_PARAMS2": ""}
        done = containers.run(tag, "/opt/run.sh", env=env | {"TMP_OUTPUT_DIR": "/tmp/results"})
        assert "in file\n" in done.stdout and "private\n" in done.stdout
    finally:
        subprocess.run(["docker", "rmi", "-f", tag], capture_output=True, timeout=60)
