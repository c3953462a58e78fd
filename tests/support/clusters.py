"""Clusters of a packed program: fixtures that make them, and looks at their results."""

import contextlib
import hashlib
import json
import random
import shutil
import socket
from pathlib import Path

import pytest

from agent.tools.cluster.cluster import Cluster
from agent.tools.cluster.job import Job
from tests.support.basics import PASSWORD, pack, slow, until

PROGRAM = Path(__file__).parent / "program.py"


@pytest.fixture(scope="session")
def private(tmp_path_factory, keys):
    """Return an encrypted private.7z with the program and a key pair."""
    return make_private(tmp_path_factory.mktemp("private"), keys)


def make_private(directory, keys):
    """Pack the program and a key pair, encrypted; return the archive."""
    content = directory / "content"
    shutil.copytree(keys, content)
    shutil.copy(PROGRAM, content / "program")
    (content / "program").chmod(0o644)  # every node makes it executable
    return pack(content, directory / "private.7z", PASSWORD)


@pytest.fixture(params=["processes", slow("containers")])
def backend(request):
    """Return the image of the nodes, and None where they are processes."""
    return None if request.param == "processes" else request.getfixturevalue("image")


@pytest.fixture
def cluster(private, tmp_path):
    """Return what makes the cluster of a job that runs the program."""

    def make(image, params, **options):
        options = {"private": private, "results": tmp_path / "results", "timeout": 100} | options
        return Cluster(described(image=image, params=params, **options))

    return make


def described(*, params, nodes=3, env=None, **options):
    """Return the job that runs the program."""
    env = {
        "PRIVATE_PASSWD": PASSWORD,
        "APP_BIN": "/opt/program",
        "APP_PARAMS": params,
        "ARCHITRAVE_LAUNCHER": "mpirun",
        "ARCHITRAVE_HEARTBEAT_SECONDS": "1",
    } | (env or {})
    return Job(nodes=nodes, env=env, **options)


@pytest.fixture
def meet():
    """Return the parameters by which all ranks meet and then end with a code."""
    # Nodes that are processes share the machine's ports with whatever else runs there. One that
    # the kernel gives to outgoing connections could be in use by then, even by a rank's that calls
    # before rank 0 listens.
    for port in random.sample(range(20000, 32000), 100):
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return f"meet {port}"
    raise AssertionError("no port is free")


def codes(result):
    """Return the exit codes of all nodes, by index."""
    return [node.code for node in result.nodes]


def run_json(result):
    return json.loads((result.results / "run.json").read_text())


def ranks(result):
    """Return what every rank wrote, by rank, on whichever node it ran."""
    found = {}
    for path in sorted(result.results.glob("node-*/rank-*.json")):
        seen = json.loads(path.read_text())
        found[seen["rank"]] = seen
    return [found[rank] for rank in sorted(found)]


def check_manifest(result):
    """Compare the manifest with every file that was downloaded."""
    manifest = json.loads((result.results / "manifest.json").read_text())
    listed = {file["path"]: (file["size"], file["sha256"]) for file in manifest["files"]}
    downloaded = {}
    for path in result.files:
        name = str(path.relative_to(result.results))
        if name.startswith("node-"):
            content = path.read_bytes()
            downloaded[name] = (len(content), hashlib.sha256(content).hexdigest())
    assert listed == downloaded
    assert manifest["nodes"] == len(result.nodes)
    return listed


def wait_ready(cluster, count, main=0, seconds=60):
    """Wait until so many ranks have printed that they run and have written their file."""
    until(lambda: cluster.states[main].stdout.count(b"ready ") >= count, seconds)


def start_late(running):
    """Start the nodes that a test has kept back until it was ready for them."""
    running._scheduled = [(0.0, start) for _, start in running._scheduled]


def errors(state):
    """Return a node's errors as one text."""
    return "\n".join(str(record["message"]) for record in state.errors)
