"""Every rank on every node has the grace period to save its state."""

import shutil
import time
from pathlib import Path

import pytest

from tests.support.basics import PASSWORD, pack, slow, until
from tests.support.clusters import PROGRAM, check_manifest, codes, errors

pytestmark = [pytest.mark.timeout(150), pytest.mark.cell("application.grace")]

SOLVER = Path(__file__).parents[1] / "support/solver.py"
WRAPPED = '#!/bin/bash\n"$(dirname "$0")"/solver "$@"\ntrue\n'
LIMITED = '#!/bin/bash\nexec timeout 600 "$(dirname "$0")"/solver "$@"\n'


@pytest.fixture(scope="module")
def private(tmp_path_factory, keys):
    """Return a private.7z with the solver, by itself and behind scripts."""
    directory = tmp_path_factory.mktemp("solver")
    content = shutil.copytree(keys, directory / "content")
    shutil.copy(SOLVER, content / "solver")
    shutil.copy(PROGRAM, content / "program")
    shutil.copy(SOLVER.with_name("mpi_solver.py"), content / "mpi_solver")
    for name, text in (("wrapped", WRAPPED), ("limited", LIMITED)):
        (content / name).write_text(text)
        (content / name).chmod(0o755)
    return pack(content, directory / "private.7z", PASSWORD)


def solve(cluster, backend, params, **env):
    """Return a running job of three nodes whose ranks have printed that they compute."""
    return cluster(backend, params, env={"APP_BIN": "/opt/solver"} | env)


def wait_computing(running, env):
    nodes = range(3) if env.get("ARCHITRAVE_LAUNCHER") == "each" else [0]
    count = 1 if len(nodes) == 3 else 3
    for index in nodes:
        until(lambda index=index: running.states[index].stdout.count(b"ready ") >= count, 60)


def check(result, seen=None, code=143):
    """Check that each rank got the signal once and wrote its state, and that it is on S3."""
    assert codes(result) == [code] * 3, "\n".join(errors(node) for node in result.nodes)
    files = check_manifest(result)
    for rank in range(3):
        assert f"node-{rank}/a{rank}.checkpoint" in files
        received = (result.results / f"node-{rank}/a{rank}.signals").read_text().split()
        assert received == (seen or ["15"])


@pytest.mark.parametrize(
    ("backend", "target", "params"),
    [
        ("processes", "worker", "a 0,3,3 9"),
        slow("containers", "main", "a 3,0,3"),
        slow("containers", "all", "a 0,3,3 9"),
    ],
    indirect=["backend"],
)
def test_ranks_on_three_nodes(cluster, backend, target, params):
    """Whichever node gets SIGTERM, no rank is killed while it saves its state."""
    with solve(cluster, backend, params) as running:
        wait_computing(running, {})
        begun = time.monotonic()
        for index in {"main": [0], "worker": [2], "all": [0, 1, 2]}[target]:
            running.nodes[index].signal(15)
        result = running.wait()
    assert time.monotonic() - begun < 25
    check(result)


def test_ranks_that_meet_and_finalize(cluster, image):
    """A checkpoint, a barrier of all nodes and MPI_Finalize end as without a stop."""
    env = {"APP_BIN": "/opt/mpi_solver", "OMPI_MCA_mpi_yield_when_idle": "1"}
    with cluster(image, "2", env=env) as running:
        wait_computing(running, {})
        running.nodes[0].signal(15)
        result = running.wait()
    assert codes(result) == [143] * 3, "\n".join(errors(node) for node in result.nodes)
    files = check_manifest(result)
    for rank in range(3):
        assert f"node-{rank}/m{rank}.finalized" in files
        assert (result.results / f"node-{rank}/m{rank}.checkpoint").read_text() == "[15]\n"


@pytest.mark.parametrize(
    ("backend", "program", "launcher"),
    [
        slow("containers", "wrapped", "mpirun"),
        slow("processes", "wrapped", "each"),
        ("processes", "limited", "mpirun"),
        ("processes", "limited", "each"),
    ],
    indirect=["backend"],
)
def test_behind_a_script(cluster, backend, program, launcher):
    env = {"ARCHITRAVE_LAUNCHER": launcher, "APP_BIN": f"/opt/{program}"}
    with solve(cluster, backend, "a 3", **env) as running:
        wait_computing(running, env)
        running.nodes[0].signal(15)
        result = running.wait()
    if program == "wrapped":
        check(result)
    else:  # timeout passes on what it gets
        assert codes(result) == [143] * 3
        files = check_manifest(result)
        assert {f"node-{rank}/a{rank}.checkpoint" for rank in range(3)} <= files.keys()


@pytest.mark.parametrize("launcher", ["mpirun", slow("each")])
@pytest.mark.cell("application.time-limit")
def test_a_time_limit(cluster, launcher):
    env = {"ARCHITRAVE_LAUNCHER": launcher, "ARCHITRAVE_TIMEOUT_SECONDS": "8"}
    with solve(cluster, None, "a 3", **env) as running:
        result = running.wait()
    check(result, code=124)


def test_what_never_ends_is_killed_on_every_node(cluster, image):
    """After the grace period, also on the workers; what has been written is uploaded."""
    with solve(cluster, image, "a forever", ARCHITRAVE_GRACE_SECONDS="2") as running:
        wait_computing(running, {})
        begun = time.monotonic()
        running.nodes[0].signal(15)
        result = running.wait()
    assert time.monotonic() - begun < 15
    assert codes(result) == [143] * 3
    for rank in range(3):
        assert (result.results / f"node-{rank}/a{rank}.signals").exists()


@pytest.mark.cell("signals.forwarded")
def test_another_signal_reaches_every_rank(cluster):
    """SIGUSR1 to the main node goes to the ranks on all nodes, and not to mpirun."""
    with cluster(None, "await 10 4") as running:
        until(lambda: running.states[0].stdout.count(b"ready ") >= 3, 60)
        running.nodes[0].signal(10)
        result = running.wait()
    assert codes(result) == [4] * 3, "\n".join(errors(node) for node in result.nodes)
