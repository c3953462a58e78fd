"""Images with SCAR's parts, and what `scar init` makes of examples/scar."""

import base64
import json
import os
import shutil
from pathlib import Path

import pytest

from agent.tools.cluster.cluster import Cluster
from agent.tools.cluster.job import BUCKET, Job
from tests.support import once
from tests.support.basics import LAMBDA_IMAGE, PASSWORD, REPOSITORY, pack
from tests.support.containers import Docker

EXAMPLES = REPOSITORY / "examples/scar"
HERE = REPOSITORY / "tests/scar"
# Lambda's, and any user but root: udocker refuses to run as root.
USER = os.geteuid() or 993
APPLICATION = """\
#!/bin/sh
# application TEXT... CODE: print the texts, leave a file for every run, exit with the code.
printf '%s\\n' "$@"
mktemp "$TMP_OUTPUT_DIR/run-$(hostname)-XXXXXX" >/dev/null
for code; do :; done
exit "$code"
"""


def build(name, *arguments, base, context=HERE):
    """Return the tag of a target of the Dockerfile, built once in a run."""
    return once.image(f"scar-{name}", *arguments, "--build-arg", f"IMAGE={base}", context=context)


@pytest.fixture(scope="session")
def node_image(image):
    """Return the image under test with faas-supervisor in it, and SCAR's command."""
    return build("node", "--target", "node", base=image)


@pytest.fixture(scope="session")
def account_image(image):
    """Return the image of the user's machine and of the Lambda function."""
    return build("account", "--target", "account", base=image)


def copy_examples(directory, changes):
    """Copy the files of the repository that SCAR reads, with this user's own bucket and changes."""
    shutil.copytree(EXAMPLES, directory / "examples/scar")
    shutil.copytree(REPOSITORY / "docker/opt", directory / "docker/opt")
    for path in (directory / "examples/scar").glob("*.yaml"):
        text = path.read_text().replace("scar-architrave", BUCKET)
        for old, new in changes.items():
            text = text.replace(old, new)
        path.write_text(text)


@pytest.fixture(scope="session")
def deploy(account_image):
    """Return what walks through the README's steps with SCAR, once in a run for each name.

    It returns the directory with account.json and task/, and what is in account.json.
    """

    def walk(name, definition, *actions, options=(), changes=None):
        def make(work):
            copy_examples(work / "repository", changes or {})
            for path in (work, *work.rglob("*")):
                os.chown(path, USER, -1)
            argv = ("python3", "/opt/account.py", "/account", definition)
            started = Docker()
            try:
                done = started.run(
                    account_image,
                    *argv,
                    "run_helper.sh",
                    *actions,
                    # Nothing but moto answers.
                    options=(
                        *("--network", "none", "--user", str(USER), "-v", f"{work}:/account"),
                        *("-w", "/account/repository/examples/scar", *options),
                    ),
                    timeout=240,
                )
            finally:
                started.remove()
            assert done.returncode == 0, done.stdout + done.stderr
            return [str(work), json.loads((work / "account.json").read_text())]

        work, account = once.once(f"scar-{name}", make)
        return Path(work), account

    return walk


@pytest.fixture(scope="session")
def batch(deploy):
    """Return what gives the account that batch.yaml makes, by the number of nodes: one or three."""

    def account(nodes):
        changes = {"enabled: true": "enabled: false"} if nodes == 1 else {}
        return deploy(f"batch-{nodes}", "batch.yaml", "batch", "remove", changes=changes)[1]

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
            timeout=200,
        )
        with Cluster(job) as cluster:
            result = cluster.wait()
            cluster.s3.download(BUCKET, "output", tmp_path / "output")
        return [node.code for node in result.nodes], tmp_path / "output", result

    return run


@pytest.fixture(scope="session")
def function(deploy):
    """Return the account that lambda.yaml makes, and the directory of the function's code."""
    mount = ("-v", f"{once.saved(LAMBDA_IMAGE)}:/tmp/architrave-docker.img:ro")
    return deploy("lambda", "lambda.yaml", "remove", options=mount)


@pytest.fixture(scope="session")
def function_image(deploy):
    """Return the account and the image that lambda.yaml makes with `runtime: image`."""
    base = build("lambda-node", "--target", "node", base=LAMBDA_IMAGE)
    changes = {
        "runtime: python3.11": "runtime: image",
        "image_file: /tmp/architrave-docker.img": f"image: {base}",
    }
    work, account = deploy("lambda-image", "lambda.yaml", changes=changes)
    return account, build("function", base=LAMBDA_IMAGE, context=work / "context")
