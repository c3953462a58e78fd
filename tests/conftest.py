"""What all tests share: an agent to run, an S3 server, the image, and a look at what is left."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

from agent.tools.cluster import cluster
from agent.tools.cluster.s3 import EmbeddedS3
from tests.faults.page import SLOW_TESTS, Page
from tests.support import once
from tests.support.basics import IMAGE, LAMBDA_IMAGE, REPOSITORY, engine_answers, make_keys
from tests.support.shared_s3 import SharedS3

# A shell starts what it puts into the background with SIGINT ignored, which programs would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A loaded machine makes an example slow, and that is not a flaw of what is tested.
hypothesis.settings.register_profile("loaded", deadline=None)
hypothesis.settings.load_profile("loaded")


def pytest_addoption(parser):
    parser.addoption("--faults-page", type=Path, help="write the page of faults to this file")


def pytest_configure(config):
    config.addinivalue_line("markers", "cell(name, ...): the faults that a test proves")
    config.addinivalue_line("markers", f"slow: left out unless {SLOW_TESTS}=1, as CI has it")
    config.pluginmanager.register(Page(config.getoption("--faults-page")))
    if not hasattr(config, "workerinput"):
        once.begin()


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        once.end()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if os.environ.get(SLOW_TESTS) == "1":
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    items[:] = [item for item in items if not item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)


def pytest_terminal_summary(terminalreporter):
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if "Docker" in str(r.longrepr)]
    if skipped:
        terminalreporter.write_line(f"SKIPPED: {len(skipped)} container tests: no Docker engine")
    if os.environ.get(SLOW_TESTS) != "1":
        terminalreporter.write_line(f"LEFT OUT: the slow tests; {SLOW_TESTS}=1 runs them too")


@pytest.fixture(scope="session")
def image():
    """Return the image under test; skip, or fail where it is required, without an engine."""
    if not engine_answers():
        if os.environ.get("ARCHITRAVE_REQUIRE_DOCKER") == "1":
            pytest.fail("no Docker engine answers, and ARCHITRAVE_REQUIRE_DOCKER=1")
        pytest.skip("no Docker engine answers")
    return IMAGE


@pytest.fixture(scope="session", autouse=True)
def one_s3_for_clusters():
    """Let the clusters of a worker share a server: to start one takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "EmbeddedS3", SharedS3)
        yield
    SharedS3.server.stop()


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """Start a real S3 server for the session, with one bucket."""
    with EmbeddedS3(tmp_path_factory.mktemp("s3")) as server:
        server.create_bucket("bucket")
        yield server


@pytest.fixture
def s3_env(s3):
    """Return the variables by which the AWS SDK finds the server."""
    return {
        "AWS_ENDPOINT_URL_S3": s3.endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
    }


@pytest.fixture
def root(tmp_path):
    """Return a root directory for an agent of its own; its /opt is there."""
    (tmp_path / "root/opt").mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
def agent(root):
    """Return what starts an agent below its own root; none outlives the test."""
    started = []

    def start(*arguments, env=None, **options):
        clean = {"PATH": os.environ["PATH"], "HOME": str(root), "ARCHITRAVE_ROOT": str(root)}
        process = subprocess.Popen(
            [sys.executable, "-m", "agent", *arguments],
            env=clean | (env or {}),
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=options.pop("stderr", subprocess.PIPE),
            text=options.pop("text", True),
            start_new_session=True,
            cwd=options.pop("cwd", REPOSITORY),
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait(10)


@pytest.fixture
def job(agent):
    """Return what runs a job to its end: (exit code, stdout, stderr)."""

    def run(timeout=60, **env):
        process = agent("run", env=env)
        out, err = process.communicate(timeout=timeout)
        return process.returncode, out, err

    return run


@pytest.fixture(scope="session")
def keys():
    """Return a directory with an SSH key pair, as it lies at the root of private.7z."""
    return Path(once.once("keys", lambda directory: str(make_keys(directory / "made"))))


@pytest.fixture
def containers():
    """Return what starts containers; none of them outlives the test."""
    from tests.support.containers import Docker

    started = Docker()
    yield started
    started.remove()


@pytest.fixture
def lambda_image(image):
    """Return the image of the target lambda."""
    return LAMBDA_IMAGE
