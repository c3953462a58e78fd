"""A machine that lacks what one takes for granted, and an agent that has a bug."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.tools.cluster.faults import DELAY, Fault
from tests.faults import harness
from tests.support.basics import REPOSITORY, pack, slow, until
from tests.support.clusters import check_manifest, codes, errors
from tests.support.containers import LAMBDA

SHELL = LAMBDA | {"APP_BIN": "/bin/sh"}
BATCH = {
    "EXEC_TYPE": "batch",
    "APP_BIN": "/bin/sh",
    "S3_BUCKET": "s3://bucket/machine",
    "S3_BATCH_DEPS_REL_PATH": "<none>",
    "S3_BATCH_PRIVATE_REL_PATH": "private.7z",
    "ARCHITRAVE_LAUNCHER": "direct",
}


@pytest.fixture
def batch(s3, s3_env, keys, tmp_path):
    """Return the environment of a batch job on one node whose private.7z has the keys."""
    s3.put_file("bucket", "machine/private.7z", pack(keys, tmp_path / "private.7z"))
    return BATCH | s3_env


@pytest.mark.cell("machine.helper")
@pytest.mark.parametrize("times", [1, 2])
def test_helper_is_killed(agent, batch, times):
    """Once: it is tried again and the job goes on. Twice: the phase's own error, and why."""
    process = agent("run", env=batch | {"APP_PARAMS": "-c 'exit 4'"})
    killed = []
    for _ in range(times):
        killed.append(until(lambda: harness.helper_of(process, killed)))
        killed[-1].kill()
    err = process.communicate(timeout=60)[1]
    assert process.returncode == (4 if times == 1 else 69), err
    again = [
        line for line in map(json.loads, err.splitlines()) if line["event"] == "helper_retried"
    ]
    assert "signal 9" in again[0]["cause"]
    failed = [line for line in map(json.loads, err.splitlines()) if line["event"] == "error"]
    assert bool(failed) == (times == 2) and all("signal 9" in one["cause"] for one in failed)


@pytest.mark.cell("machine.helper")
def test_helper_hangs(broken, batch):
    """One that says nothing is ended at its deadline; the next one does the work."""
    process = broken(
        "agent.job.stage_in", "_SECONDS", "8", env=batch | {"APP_PARAMS": "-c 'exit 4'"}
    )
    until(lambda: harness.helper_of(process)).send_signal(signal.SIGSTOP)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 4, err
    assert '"helper_retried"' in err


@pytest.mark.cell("machine.helper")
def test_helper_is_killed_while_7_zip_runs(agent, batch, tmp_path):
    """The second try's 7-Zip has the directory for itself: the first one's has been ended."""
    programs = tmp_path / "programs"
    programs.mkdir()
    # The first one would unpack for ever; the next one looks whether it is still there.
    (programs / "7zz").write_text(
        f"""#!/bin/sh
        if [ ! -e {programs}/first ]; then echo $$ >{programs}/first; exec sleep 1000; fi
        kill -0 $(cat {programs}/first) && : >{programs}/both
        exec {shutil.which("7zz")} "$@"
        """
    )
    (programs / "7zz").chmod(0o755)
    env = batch | {"APP_PARAMS": "-c 'exit 4'", "PATH": f"{programs}:{os.environ['PATH']}"}
    process = agent("run", env=env)
    until(lambda: (programs / "first").exists() and (programs / "first").read_text())
    harness.helper_of(process).kill()
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 4, err
    assert '"helper_retried"' in err and not (programs / "both").exists()


@pytest.mark.cell("machine.helper")
@pytest.mark.parametrize("times", [1, slow(2)])
def test_helper_is_killed_while_it_joins(cluster, times):
    """Once: another one joins. Twice: 75 with the cause, and main names the missing one."""
    late = Fault(DELAY, 0, seconds=4)
    env = harness.env(ARCHITRAVE_JOIN_TIMEOUT_SECONDS="20" if times == 1 else "6")
    with cluster(None, "exit 5", nodes=2, env=env, faults=(late,)) as running:
        running.wait_phase(1, "join")
        process, killed = running.nodes[1].process, []
        for _ in range(times):
            killed.append(until(lambda: harness.helper_of(process, killed)))
            killed[-1].kill()
        result = running.wait()
    assert codes(result) == ([5, 5] if times == 1 else [75, 75])
    assert ("signal 9" in errors(result.nodes[1])) == (times == 2)


@pytest.fixture
def broken(root):
    """Return what starts an agent with one function broken; none outlives the test."""
    started = []

    def start(module, name, value, env):
        clean = {"PATH": os.environ["PATH"], "ARCHITRAVE_ROOT": str(root), "HOME": str(root)}
        script = Path(__file__).parent / "broken.py"
        process = subprocess.Popen(
            [sys.executable, script, module, name, value, "run"],
            env=clean | {"PYTHONPATH": str(REPOSITORY)} | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=10)


@pytest.mark.cell("machine.bug")
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("agent.job.directories", "RuntimeDirectory.take"),
        ("agent.job.single", "Single.work"),
        ("agent.engine.helpers", "Helper._on_output"),
        ("agent.job.output_dir", "OutputDirectory.open_log"),
        ("agent.launch.application", "Application.start"),
        ("agent.launch.time_log", "TimeLog._take"),
        ("agent.launch.application", "Application.outcome"),
        ("agent.job.upload", "Upload.finish"),
        ("agent.job.record", "Record.write"),
        ("agent.job.supervisor", "Supervisor.cleanup"),
    ],
)
def test_a_bug_in_any_phase(broken, batch, root, module, name):
    """70 and a traceback, whatever the application says; no process is left."""
    process = broken(module, name, "raise", env=batch | {"APP_PARAMS": "-c 'echo $$; sleep 0.2'"})
    out, err = process.communicate(timeout=60)
    assert process.returncode == 70, err
    assert "ZeroDivisionError" in err
    if name != "Supervisor.cleanup":
        assert not list(root.rglob(".architrave*"))
        assert not list((root / "opt").iterdir())
    for pid in out.split()[:1]:
        assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.cell("machine.hangs")
def test_mpirun_never_prints_its_version(broken, batch, tmp_path):
    """That is not a wrong MPI: its version is unknown, and another attempt may get it."""
    script(tmp_path / "bin/mpirun", "sleep 1000")
    nodes = {"AWS_BATCH_JOB_ID": "j", "AWS_BATCH_JOB_NUM_NODES": "2"}
    nodes |= {"AWS_BATCH_JOB_NODE_INDEX": "0"}
    nodes |= {"ARCHITRAVE_ADDRESS": "127.0.0.2", "ARCHITRAVE_SSH_PORT": str(free_port())}
    env = batch | nodes | {"ARCHITRAVE_LAUNCHER": "mpirun"}
    env["PATH"] = f"{tmp_path}/bin:{os.environ['PATH']}"
    process = broken("agent.job.ask", "_SECONDS", "(0.5, 0.5)", env=env)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 75, err
    assert '"command_timed_out"' in err and "mpirun --version" in err


@pytest.mark.cell("machine.hangs")
def test_a_signal_while_a_cause_is_looked_up(agent, tmp_path):
    """The application has ended with its own code by then."""
    script(tmp_path / "bin/ldd", f": >{tmp_path}/asked; sleep 1000")
    env = {"EXEC_TYPE": "lambda", "APP_BIN": "/bin/sh", "APP_PARAMS": "-c 'exit 127'"}
    process = agent("run", env=env | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"})
    until((tmp_path / "asked").exists)
    process.terminate()
    err = process.communicate(timeout=30)[1]
    assert process.returncode == 127, err


def test_processes_have_names_of_their_own(agent, batch):
    """A program that ends its own Python workers by name doesn't end the job."""
    process = agent("run", env=batch | {"APP_PARAMS": "-c 'cat /proc/$PPID/comm'"})
    helper = until(lambda: harness.helper_of(process))
    until(lambda: helper.name() == "architrave-stag")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "architrave" in out.splitlines()


def free_port():
    with socket.create_server(("127.0.0.2", 0)) as server:
        return server.getsockname()[1]


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.cell("machine.no-shm")
def test_no_shared_memory(containers, image):
    env = {"EXEC_TYPE": "lambda", "APP_BIN": "/bin/sh"}
    params = {"APP_PARAMS": "-c 'test -e /dev/shm && exit 1; exit 3'"}
    done = containers.run(image, env=env | params, options=("--ipc", "none"))
    assert done.returncode == 3, done.stderr


@pytest.mark.cell("machine.descriptors")
@pytest.mark.parametrize("argv", [(), ("sh", "-c", "ulimit -n; exit 3")])
def test_sixteen_descriptors(containers, lambda_image, argv):
    """Enough for a job and for a command; what is started has the same limit."""
    env = SHELL | {"APP_PARAMS": "-c 'ulimit -n; exit 3'", "ARCHITRAVE_STDIN": "/etc/passwd"}
    limit = ("--ulimit", "nofile=16:16")
    done = containers.run(lambda_image, *argv, env=env, options=limit)
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("16\n")


@pytest.mark.cell("machine.pids")
def test_thirty_two_processes(cluster, image):
    """A job with archives from S3 and results to it has room in a limit of 32."""
    limit = ("--pids-limit", "32")
    env = {"ARCHITRAVE_SLOTS": "1", "ARCHITRAVE_LAUNCHER": "direct"}
    with cluster(image, "exit 6", nodes=1, docker_args=limit, env=env) as running:
        result = running.wait()
    assert codes(result) == [6], errors(result.nodes[0])
    check_manifest(result)


@pytest.fixture
def faked():
    """Return variables under which the system's clock, and not the monotonic one, can be set."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip("apt-get install faketime")
    return {"LD_PRELOAD": str(library), "FAKETIME_NO_CACHE": "1"}


@pytest.mark.cell("machine.clock")
@pytest.mark.parametrize("step", ["+1h", slow("-1h")])
def test_the_clock_steps(cluster, faked, tmp_path, step):
    """An hour forth or back on one node, and the way back: no node and nothing else is lost."""
    clock = tmp_path / "clock"
    clock.write_text("+0")
    faked |= {"FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    env = {"ARCHITRAVE_HEARTBEAT_SECONDS": "0.5", "ARCHITRAVE_LAUNCHER": "each"}
    with cluster(None, "hold", env=env, node_env={1: faked}) as running:
        until(lambda: all(b"ready " in state.stdout for state in running.states), 60)
        clock.write_text(step)
        # Twice what makes a silent node a lost one.
        with pytest.raises(TimeoutError):
            running.wait_end(0, 5)
        clock.write_text("+0")
        for node in running.nodes.values():
            node.signal(signal.SIGTERM)
        result = running.wait()
    assert codes(result) == [143] * 3
    assert len(list(result.results.glob("node-*/rank-*.json"))) == 3


@pytest.mark.cell("machine.clock")
@pytest.mark.parametrize("offset", ["+1h", "-1h"])
def test_a_clock_that_is_wrong(job, batch, faked, root, s3, tmp_path, offset):
    """S3 refuses what is signed by a clock an hour off; then its own time is used."""
    made = "-c 'date +%s >$TMP_OUTPUT_DIR/result; exit 4'"
    output = {"ARCHITRAVE_OUTPUT": f"s3://bucket/clock{offset}", "AWS_BATCH_JOB_ID": "clock"}
    code, _, err = job(**batch, **faked, **output, FAKETIME=offset, APP_PARAMS=made)
    assert code == 4, err
    s3.download("bucket", f"clock{offset}", tmp_path / "got")
    (result,) = (tmp_path / "got").rglob("result")
    assert abs(abs(int(result.read_text()) - time.time()) - 3600) < 100


@pytest.mark.cell("machine.leftovers")
def test_leftovers_of_an_earlier_attempt(cluster, tmp_path):
    """Readiness files, keys and a hostfile of an attempt that was killed are ignored."""
    root = tmp_path / "old"
    for directory in ("opt", "tmp/batch/workers_ready", "tmp/batch/master_done"):
        (root / directory).mkdir(parents=True)
    old = {"index": 1, "address": "127.0.0.9", "slots": 9, "version": "1", "job": "old"}
    ready = root / "tmp/batch/workers_ready/1.json"
    ready.write_text(json.dumps(old | {"attempt": 1}))
    done = {"job": "old", "attempt": 1, "outcome": {"code": 0, "source": "application"}}
    (root / "tmp/batch/master_done/done").write_text(json.dumps(done))
    (root / "tmp/hostfile").write_text("127.0.0.9 slots=9\n")
    runtime = root / f"var/tmp/.architrave-{os.geteuid()}"
    (runtime / "ssh").mkdir(parents=True)
    (runtime / "ssh/host_key").write_text("old")
    node_env = {0: {"ARCHITRAVE_ROOT": str(root), "APP_BIN": f"{root}/opt/program"}}
    with cluster(None, "exit 5", nodes=2, node_env=node_env) as running:
        result = running.wait()
    assert codes(result) == [5, 5], errors(result.nodes[0])
    assert not (root / "tmp/batch").exists() and not runtime.exists()


@pytest.mark.cell("machine.home")
def test_home_is_not_set(cluster, monkeypatch):
    monkeypatch.delenv("HOME")
    with cluster(None, "exit 5", nodes=2) as running:
        result = running.wait()
    assert codes(result) == [5, 5], errors(result.nodes[0])


@pytest.mark.cell("machine.host-name")
@pytest.mark.parametrize("count", [slow(1), 2])
def test_no_name_can_be_resolved(cluster, image, tmp_path, count):
    """Nodes meet by addresses; not even localhost has a name."""
    empty = tmp_path / "empty"
    empty.touch()
    files = [("-v", f"{empty}:{path}:ro") for path in ("/etc/hosts", "/etc/resolv.conf")]
    docker_args = sum(files, ())
    with cluster(image, "exit 5", nodes=count, docker_args=docker_args) as running:
        result = running.wait()
    assert set(codes(result)) == {5}, errors(result.nodes[0])


@pytest.mark.cell("machine.ipv6")
def test_loopback_without_ipv4(containers, image):
    """A single node needs no 127.0.0.1. (mpirun does, always: the launcher is direct.)"""
    remove = "ip address del 127.0.0.1/8 dev lo; exec /opt/architrave/bin/architrave run"
    options = ("--sysctl", "net.ipv6.conf.all.disable_ipv6=0", "--cap-add", "NET_ADMIN")
    options += ("--network", "none", "--entrypoint", "/bin/sh")
    env = SHELL | {"APP_PARAMS": "-c 'exit 3'"}
    done = containers.run(image, "-c", remove, env=env, options=options)
    assert done.returncode == 3, done.stderr
