"""The grace period belongs to whatever computes, not to the process that was started first."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.support.basics import slow, until

pytestmark = [pytest.mark.timeout(60), pytest.mark.cell("application.grace")]

SOLVER = Path(__file__).parents[1] / "support/solver.py"
BASE = {"EXEC_TYPE": "lambda", "ARCHITRAVE_LAUNCHER": "direct", "APP_BIN": "/bin/bash"}
# A script in the foreground, one that goes on afterwards, groups and sessions of their own, a
# leader that has ended long ago, a pipe, two at once.
SCRIPTS = {
    "script": "solver a 3; true",
    "script that goes on": "solver a 3; solver never 0",
    "trap": "trap 'echo received' TERM; solver a 3 & wait; wait",
    "timeout": "timeout 600 solver a 3",
    "timeout in a script": "timeout 600 solver a 3; true",
    "setsid": "setsid solver a 3; true",
    "background": "solver a 3 & wait",
    "session in the background": "setsid -f solver a 3; sleep 600",
    "pipe": "solver a 3 | cat",
    "two": "solver b 2 & solver a 3; wait",
    "itself": "exec solver a 3",
}
QUICK = ("script", "timeout", "session in the background", "two", "together", "one fails")


@pytest.fixture
def solve(agent, root):
    """Return what starts a script with `solver` in it, and waits until it computes."""
    shutil.copy(SOLVER, root / "opt/solver")

    def start(script, **env):
        script = script.replace("solver", str(root / "opt/solver"))
        env = BASE | {"APP_PARAMS": f'-c "{script}"'} | env
        process = agent("run", env=env)
        line = process.stdout.readline()
        while "ready" not in line:
            line = process.stdout.readline()
            assert line, process.stderr.read()
        return process

    return start


def signals(root, name="a"):
    path = root / f"tmp/{name}.signals"
    return path.read_text().split() if path.exists() else []


def exited(process):
    _, err = process.communicate(timeout=40)
    return process.returncode, [json.loads(line) for line in err.splitlines()]


@pytest.mark.parametrize(
    "script",
    [script if name in QUICK else slow(script) for name, script in SCRIPTS.items()],
    ids=SCRIPTS.keys(),
)
def test_a_checkpoint_that_takes_three_seconds(solve, root, script):
    """Each process gets SIGTERM once and the time that it needs; the code stays SIGTERM's."""
    process = solve(script)
    if "solver b" in script:
        until(lambda: process.stdout.readline().startswith("ready"))
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, _ = exited(process)
    assert (root / "tmp/a.checkpoint").exists()
    assert 2.5 < time.monotonic() - begun < 9
    assert code == 143 or (script.startswith("exec") and code == 0)
    if "timeout" in script:  # which passes on what it gets itself
        assert set(signals(root)) == {"15"}
    else:
        assert signals(root) == ["15"]
    assert not (root / "tmp/never.signals").exists()
    if "solver b" in script:
        assert (root / "tmp/b.checkpoint").exists() and signals(root, "b") == ["15"]


def test_sigint_stays_sigint(solve, root):
    process = solve("solver a 1; true")
    process.send_signal(signal.SIGINT)
    assert exited(process)[0] == 130
    assert signals(root) == ["2"] and (root / "tmp/a.checkpoint").exists()


@pytest.mark.cell("application.time-limit")
@pytest.mark.parametrize("script", ["solver a 3; true", "timeout 600 solver a 3"])
def test_a_time_limit_gives_it_too(solve, root, script):
    code, _ = exited(solve(script, ARCHITRAVE_TIMEOUT_SECONDS="1"))
    assert code == 124
    assert (root / "tmp/a.checkpoint").exists()


@pytest.mark.cell("application.time-limit")
def test_a_time_limit_during_the_grace_period_ends_nothing_sooner(solve, root):
    process = solve("solver a 3; true", ARCHITRAVE_TIMEOUT_SECONDS="3")
    process.send_signal(signal.SIGTERM)
    assert exited(process)[0] == 143
    assert signals(root) == ["15"] and (root / "tmp/a.checkpoint").exists()


def test_each_on_one_node(solve, root):
    process = solve("solver a 3; true", ARCHITRAVE_LAUNCHER="each")
    process.send_signal(signal.SIGTERM)
    assert exited(process)[0] == 143
    assert (root / "tmp/a0.checkpoint").exists()


@pytest.mark.cell("application.ignores-sigterm")
@pytest.mark.parametrize(
    "script", ["solver a forever; true", "setsid -f solver a forever; sleep 9"]
)
def test_what_never_ends_is_killed_at_the_end_of_the_grace(solve, root, script):
    process = solve(script, ARCHITRAVE_GRACE_SECONDS="2")
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, _ = exited(process)
    assert code == 143 and 1.9 < time.monotonic() - begun < 6
    assert not (root / "tmp/a.checkpoint").exists()
    assert not running(root / "opt/solver")


def test_a_second_signal_ends_it_at_once(solve, root):
    process = solve("solver a forever; true")
    process.send_signal(signal.SIGTERM)
    until(lambda: signals(root))
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert exited(process)[0] == 143
    assert time.monotonic() - begun < 4
    assert not running(root / "opt/solver")


RANKS = {
    "together": ("solver", "a 3"),
    "one at once": ("solver", "a 0,3"),
    "one fails": ("solver", "a 0,3 9"),
    "wrapped": ("/bin/bash", '-c "solver a 3; true"'),
    "under timeout": ("/usr/bin/timeout", "600 solver a 3"),
}


@pytest.mark.parametrize(
    ("program", "params"),
    [ranks if name in QUICK else slow(*ranks) for name, ranks in RANKS.items()],
    ids=RANKS.keys(),
)
def test_ranks_under_mpirun(solve, root, agent, program, params):
    """No rank is killed by mpirun while it saves its state, also where another one has ended."""
    solver = str(root / "opt/solver")
    env = BASE | {
        "ARCHITRAVE_LAUNCHER": "mpirun",
        "ARCHITRAVE_SLOTS": "2",
        "APP_BIN": program.replace("solver", solver),
        "APP_PARAMS": params.replace("solver", solver),
        "ARCHITRAVE_MPIRUN_ARGS": "--oversubscribe --bind-to none",
    }
    process = agent("run", env=env)
    for _ in range(2):
        while "ready" not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, _ = exited(process)
    assert code == 143
    for rank in "01":
        assert (root / f"tmp/a{rank}.checkpoint").exists()
        assert set(signals(root, f"a{rank}")) == {"15"}
    assert time.monotonic() - begun < 12
    assert not running(root / "opt/solver")


def test_ranks_that_meet_and_finalize(root, agent):
    """MPI itself works until its ranks have left it: a barrier and MPI_Finalize need mpirun."""
    shutil.copy(SOLVER.with_name("mpi_solver.py"), root / "opt/solver")
    env = BASE | {
        "ARCHITRAVE_LAUNCHER": "mpirun",
        "ARCHITRAVE_SLOTS": "3",
        "APP_BIN": "/opt/solver",
        "APP_PARAMS": "1",
        "ARCHITRAVE_MPIRUN_ARGS": "--oversubscribe --bind-to none",
        "OMPI_MCA_mpi_yield_when_idle": "1",
    }
    process = agent("run", env=env)
    for _ in range(3):
        while "ready" not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, _ = exited(process)
    assert code == 143 and time.monotonic() - begun < 14
    for rank in range(3):
        assert (root / f"tmp/m{rank}.checkpoint").read_text() == "[15]\n"
        assert (root / f"tmp/m{rank}.finalized").exists()


def test_a_program_that_leaves_work_behind_gets_a_warning(solve, root):
    """Its code stays; the warning names what was ended and says what to do."""
    process = solve("solver a forever & read line < <(sleep 0.5); exit 0")
    code, records = exited(process)
    assert code == 0
    (one,) = [r for r in records if r["event"] == "stragglers_ended"]
    assert one["level"] == "warning" and "foreground" in one["hint"]
    assert one["processes"]


def running(program):
    """Return whether a process runs that program."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(program).encode() in path.read_bytes():
                return True
        except OSError:
            continue
    return False
