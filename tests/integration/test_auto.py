"""Which launcher `auto` is, what a program is given, and how many processes there are."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from agent.launch import cgroup, mpi_use

pytestmark = pytest.mark.timeout(60)

# Real programs of Debian's: one that loads libmpi.
WITH_MPI = "/usr/bin/ompi_info"
BATCH = {
    "EXEC_TYPE": "batch",
    "S3_BATCH_PRIVATE_REL_PATH": "<none>",
    "S3_BATCH_DEPS_REL_PATH": "<none>",
    "ARCHITRAVE_OUTPUT": "<none>",
}


def ask(argv, env):
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=20)
    return done.stdout + done.stderr


def shown(*command, env=None):
    return mpi_use.uses_mpi(command, {"PATH": os.environ["PATH"]} | (env or {}), ask)


@pytest.fixture
def script(tmp_path):
    """Return what writes an executable file."""

    def write(text, name="script"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(0o755)
        return str(path)

    return write


def test_a_program_that_loads_mpi_is_seen(script):
    assert "libmpi" in shown(WITH_MPI)
    assert shown("ompi_info")
    assert shown("/usr/bin/timeout", "9", WITH_MPI)
    assert shown("env", "A=b", WITH_MPI)
    assert shown("/bin/sh", "-c", f"exec {WITH_MPI}") or shown(script(f"#!/bin/sh\n{WITH_MPI}\n"))
    assert shown(script(f'#!/bin/bash\nset -e\nexport A=b\nexec {WITH_MPI} "$@"\n'))
    assert shown(script("#!/bin/sh\nexec ompi_info\n"))


def test_a_program_beside_a_script_is_seen(script, tmp_path):
    shutil.copy(WITH_MPI, tmp_path / "solver")
    assert shown(script('#!/bin/sh\nexec "$(dirname "$0")/solver" "$@"\n'))


@pytest.mark.parametrize(
    "command",
    [
        ["python3", "-c", "from mpi4py import MPI"],
        ["python3", "-m", "mpi4py.bench", "helloworld"],
    ],
)
def test_an_interpreter_that_is_asked_for_mpi(command):
    assert "mpi4py" in shown(*command)


@pytest.mark.parametrize(
    "text",
    [
        "#!/usr/bin/env python3\nfrom mpi4py import MPI\n",
        "#!/usr/bin/Rscript\nlibrary(Rmpi)\n",
        "#!/usr/bin/env julia\nusing MPI\nMPI.Init()\n",
    ],
)
def test_a_script_that_names_it(script, text):
    path = script(text)
    assert shown(path) and shown("python3", path)


@pytest.mark.parametrize("at", [1 << 20, (1 << 20) - 3, (1 << 20) + 5, 3 << 20])
def test_a_static_program_s_messages_are_seen(script, at):
    """A stripped program without libmpi still has MPI's messages, wherever they lie."""
    with open("/bin/true", "rb") as file:
        program = file.read()
    program += b"\0" * (at - len(program)) + b"MPI_Comm_rank(%C, rank=%p) failed"
    assert "MPI_Comm_" in shown(script(program))


@pytest.mark.parametrize(
    "command",
    [
        ["/bin/ls"],
        ["/bin/bash", "-c", "echo MPI is fine; ls"],
        [sys.executable, "-c", "import json"],
        ["/nowhere/at/all", "x"],
        ["/bin"],
    ],
)
def test_programs_without_mpi(command):
    assert shown(*command) == ""


@pytest.mark.parametrize(
    "text",
    [
        f"#!/bin/sh\nmpirun -np 2 {WITH_MPI}\n",
        f"#!/bin/bash\ncd /tmp && exec mpiexec {WITH_MPI}\n",
        f"#!/bin/sh\nsrun --mpi=pmi2 {WITH_MPI}\n",
        f"#!/bin/bash\n/usr/bin/mpirun.openmpi {WITH_MPI}\n",
    ],
)
def test_a_script_that_starts_its_ranks_itself(script, text):
    """It is started once: it says how many ranks there are."""
    path = script(text)
    assert shown(path) == "" and shown("/bin/sh", path) == ""


def test_a_comment_starts_nothing(script):
    assert shown(script(f"#!/bin/sh\n# by hand: mpirun -np 2 x\nexec {WITH_MPI}\n"))


# -- in a job


def launched(err):
    records = [json.loads(line) for line in err.splitlines()]
    (one,) = [record for record in records if record["event"] == "application_starting"]
    return one


def test_a_program_without_mpi_runs_once(job, root):
    env = BATCH | {"APP_BIN": "/bin/sh", "APP_PARAMS": "-c 'echo once >>count'"}
    code, _, err = job(**env)
    assert code == 0, err
    assert (root / "tmp/output/count").read_text() == "once\n"
    assert launched(err)["launcher"] == "direct" and "no MPI" in launched(err)["reason"]


def test_slots_say_how_often(job, root):
    env = BATCH | {
        "APP_BIN": "/bin/sh",
        "APP_PARAMS": "-c 'echo >rank-$OMPI_COMM_WORLD_RANK'",
        "ARCHITRAVE_SLOTS": "2",
        "ARCHITRAVE_MPIRUN_ARGS": "--oversubscribe",
    }
    code, _, err = job(**env)
    assert code == 0, err
    assert {path.name for path in (root / "tmp/output").glob("rank-*")} == {"rank-0", "rank-1"}
    assert "ARCHITRAVE_SLOTS" in launched(err)["reason"]


def test_a_program_with_mpi_runs_under_mpirun(job):
    env = BATCH | {"APP_BIN": WITH_MPI, "APP_PARAMS": "--version"}
    env |= {"ARCHITRAVE_MPIRUN_ARGS": "--oversubscribe"}
    code, _, err = job(**env)
    assert code == 0, err
    assert launched(err)["launcher"] == "mpirun" and "libmpi" in launched(err)["reason"]


SHOW = 'printf "<%s>\\n" "$@" >"$TMP_OUTPUT_DIR/arguments"\n'


@pytest.mark.parametrize("example", [False, True])
@pytest.mark.parametrize("exec_type", ["lambda", "batch"])
def test_arguments_that_nobody_named(job, root, exec_type, example):
    """With all four variables unset it is the example, or nothing where there is none."""
    app = root / "opt/app"
    app.write_text("#!/bin/sh\n" + SHOW)
    app.chmod(0o755)
    if example:
        (root / "opt/examples").mkdir()
        (root / "opt/examples/example").write_text("x")
    code, _, err = job(**BATCH | {"EXEC_TYPE": exec_type, "APP_BIN": "/opt/app"})
    assert code == 0, err
    output = root / ("tmp/output" if exec_type == "batch" else "tmp")
    arguments = (output / "arguments").read_text().splitlines()
    expected = [f"<{root}/opt/examples/example>", f"<{output}>"] if example else ["<>"]
    assert arguments == expected


def test_one_of_the_older_form_s_variables_is_enough(job, root):
    app = root / "opt/app"
    app.write_text("#!/bin/sh\n" + SHOW)
    app.chmod(0o755)
    env = BATCH | {"APP_BIN": "/opt/app", "APP_PARAMS2": "-v", "APP_IN_FILE": ""}
    assert job(**env)[0] == 0
    output = root / "tmp/output"
    assert (output / "arguments").read_text().splitlines() == [f"<{output}>", "<-v>"]


# -- slots


def explained(agent, **env):
    process = agent("explain", env=BATCH | {"ARCHITRAVE_LAUNCHER": "mpirun"} | env)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return next(line for line in out.splitlines() if line.startswith("  run "))


@pytest.mark.parametrize(
    ("slots", "count"), [("cores", cgroup.cores()), ("threads", cgroup.processors()), ("3", 3)]
)
def test_slots_by_name(agent, slots, count):
    assert f" -np {count} " in explained(agent, APP_BIN="/bin/true", ARCHITRAVE_SLOTS=slots)


def test_slots_that_are_none(job):
    code, _, err = job(**BATCH, APP_BIN="/bin/true", ARCHITRAVE_SLOTS="core")
    assert code == 78 and "ARCHITRAVE_SLOTS='core'" in err


@pytest.mark.skipif(cgroup.processors() < 2, reason="needs two processors")
class TestBinding:
    """A rank has all processors where ranks are fewer, unless set otherwise."""

    def test_threads_have_all_processors(self, job, root):
        command = "-c 'grep Cpus_allowed_list /proc/self/status >allowed'"
        env = BATCH | {"APP_BIN": "/bin/sh", "APP_PARAMS": command, "ARCHITRAVE_SLOTS": "1"}
        assert job(**env)[0] == 0
        with open("/proc/self/status") as status:
            own = next(line for line in status if line.startswith("Cpus_allowed_list"))
        assert (root / "tmp/output/allowed").read_text() == own

    @pytest.mark.parametrize(
        ("env", "unbound"),
        [
            ({"ARCHITRAVE_SLOTS": "1"}, True),
            ({"ARCHITRAVE_SLOTS": "threads"}, False),
            ({"ARCHITRAVE_SLOTS": "1", "ARCHITRAVE_MPIRUN_ARGS": "--bind-to core"}, False),
            ({"ARCHITRAVE_SLOTS": "1", "ARCHITRAVE_MPIRUN_ARGS": "--map-by socket:PE=2"}, False),
            ({"ARCHITRAVE_SLOTS": "1", "OMPI_MCA_hwloc_base_binding_policy": "core"}, False),
        ],
    )
    def test_arguments(self, agent, env, unbound):
        line = explained(agent, APP_BIN="/bin/true", **env)
        assert ("--bind-to none" in line) is unbound
