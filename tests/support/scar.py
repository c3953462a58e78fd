"""Images with SCAR's parts, and what `scar init` makes of examples/scar."""

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import uuid

import pytest

from agent.tools.cluster.cluster import Cluster
from agent.tools.cluster.job import BUCKET, Job
from tests.support.basics import LAMBDA_IMAGE, PASSWORD, REPOSITORY, pack
from tests.support.containers import Docker, docker

EXAMPLES = REPOSITORY / "examples/scar"
HERE = REPOSITORY / "tests/scar"
# Lambda's, and any user but root: udocker refuses to run as root.
USER = os.geteuid() or 993
APPLICATION = """\
#!/bin/sh
# application WORD... CODE: say the words, leave a file for every run, end with the code.
printf '%s\\n' "$@"
mktemp "$TMP_OUTPUT_DIR/run-$(hostname)-XXXXXX" >/dev/null
for code; do :; done
exit "$code"
"""


@pytest.fixture(scope="session")
def build(image, tmp_path_factory):
    """Return what builds a target of the Dockerfile; the images go after the session."""
    tags = []

    @contextlib.contextmanager
    def alone():
        # Removing an image takes the layers away that another worker's build has just found.
        with (tmp_path_factory.getbasetemp().parent / "scar.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def one(*words, base=image, context=HERE):
        tag = f"architrave-scar:{uuid.uuid4().hex[:12]}"
        words = ("-q", "--label", "architrave", "-t", tag, *words, "--build-arg", f"IMAGE={base}")
        # A second build finds all of it in the engine's cache.
        with alone():
            tags.append(tag)
            docker("build", *words, str(context), timeout=600)
        return tag

    yield one
    if tags:
        with alone():
            subprocess.run(["docker", "rmi", "-f", *tags], capture_output=True, timeout=120)


@pytest.fixture(scope="session")
def node_image(build):
    """Return the image under test with faas-supervisor in it, and SCAR's command."""
    return build("--target", "node")


@pytest.fixture(scope="session")
def account_image(build):
    """Return the image of the user's machine and of the Lambda function."""
    return build("--target", "account")


def copy_examples(directory, changes):
    """Copy the repository's part that SCAR reads, with this user's own bucket and changes."""
    shutil.copytree(EXAMPLES, directory / "examples/scar")
    shutil.copytree(REPOSITORY / "docker/opt", directory / "docker/opt")
    for path in (directory / "examples/scar").glob("*.yaml"):
        text = path.read_text().replace("scar-architrave", BUCKET)
        for old, new in changes.items():
            text = text.replace(old, new)
        path.write_text(text)


@pytest.fixture(scope="session")
def deploy(account_image, tmp_path_factory):
    """Return what walks through the README's steps with SCAR; it leaves account.json and task/."""
    started = Docker()
    works = []

    def walk(definition, *actions, options=(), changes=None):
        work = tmp_path_factory.mktemp("account")
        works.append(work)
        copy_examples(work / "repository", changes or {})
        for path in (work, *work.rglob("*")):
            os.chown(path, USER, -1)
        words = ("python3", "/opt/account.py", "/account", definition)
        done = started.run(
            account_image,
            *words,
            "run_helper.sh",
            *actions,
            # Nothing but moto answers.
            options=(
                *("--network", "none", "--user", str(USER)),
                *("-v", f"{work}:/account", "-w", "/account/repository/examples/scar", *options),
            ),
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return work, json.loads((work / "account.json").read_text())

    yield walk
    started.remove()
    for work in works:
        shutil.rmtree(work, ignore_errors=True)  # the function's code is as large as the image


@pytest.fixture(scope="session")
def batch(deploy):
    """Return what gives the account that batch.yaml makes, by the number of nodes: one or three."""
    found = {}

    def account(nodes):
        if nodes not in found:
            changes = {"enabled: true": "enabled: false"} if nodes == 1 else {}
            found[nodes] = deploy("batch.yaml", "batch", "remove", changes=changes)[1]
        return found[nodes]

    return account


def container(account):
    """Return the container of the job definition, of a single node or of all nodes."""
    (definition,) = account["definitions"]
    if definition["node"] is None:
        return definition["container"]
    (nodes,) = definition["node"]["nodeRangeProperties"]
    assert nodes["targetNodes"] == "0:"
    return nodes["container"]


def environment(account):
    """Return what AWS Batch sets in the container: the definition's variables and the job's."""
    (job,) = account["jobs"]
    overrides = job.get("containerOverrides")
    if overrides is None:
        (override,) = job["nodeOverrides"]["nodePropertyOverrides"]
        overrides = override["containerOverrides"]
    listed = [*container(account)["environment"], *overrides["environment"]]
    return {one["name"]: one["value"] for one in listed}


@pytest.fixture(scope="session")
def archive(tmp_path_factory, keys):
    """Return an encrypted private.7z with an application and the key pair of the nodes."""
    directory = tmp_path_factory.mktemp("private")
    content = directory / "content"
    shutil.copytree(keys, content)
    (content / "application").write_text(APPLICATION)
    (content / "application").chmod(0o755)
    return pack(content, directory / "private.7z", PASSWORD)


@pytest.fixture(scope="session")
def bucket(s3):
    """Make the user's bucket."""
    s3.create_bucket(BUCKET)
    return BUCKET


@pytest.fixture
def submit(node_image, batch, archive, tmp_path):
    """Return what runs a helper as SCAR's job; it returns the nodes' codes and what is on S3."""

    def run(helper, *, nodes=1, script=None, key="input/run_helper.sh", env=None):
        path = tmp_path / "run_helper.sh"
        path.write_text(helper)
        variables = environment(batch(nodes)) | {"ARCHITRAVE_SLOTS": "1"} | (env or {})
        if script is not None:
            variables["SCRIPT"] = base64.b64encode(script.encode()).decode()
        job = Job(
            nodes=nodes,
            image=node_image,
            private=archive,
            files={key: path},
            env=variables,
            results=tmp_path / "job",
            timeout=100,
        )
        with Cluster(job) as cluster:
            result = cluster.wait()
            cluster.s3.download(BUCKET, "output", tmp_path / "output")
        return [node.code for node in result.nodes], tmp_path / "output", result

    return run


@pytest.fixture(scope="session")
def function(deploy, lambda_file):
    """Return the account that lambda.yaml makes, and the directory of the function's code."""
    mount = ("-v", f"{lambda_file}:/tmp/architrave-docker.img:ro")
    return deploy("lambda.yaml", "remove", options=mount)


@pytest.fixture(scope="session")
def function_image(deploy, build):
    """Return the account and the image that lambda.yaml makes with `runtime: image`."""
    base = build("--target", "node", base=LAMBDA_IMAGE)
    changes = {
        "runtime: python3.11": "runtime: image",
        "image_file: /tmp/architrave-docker.img": f"image: {base}",
    }
    work, account = deploy("lambda.yaml", changes=changes)
    return account, build(context=work / "context")


@pytest.fixture(scope="session")
def lambda_file(image, tmp_path_factory):
    """Return the image for Lambda as `docker save` writes it."""
    path = tmp_path_factory.mktemp("image") / "architrave-docker.img"
    docker("save", "-o", str(path), LAMBDA_IMAGE, timeout=120)
    path.chmod(0o644)
    yield path
    path.unlink()
