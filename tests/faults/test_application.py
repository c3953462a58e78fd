"""Faults of the application that need a limit, a full disk, or something that can't be ended."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.launch.application import UNKILLABLE
from tests.support.basics import PASSWORD, pack, read_line, until
from tests.support.clusters import codes, errors, run_json, wait_ready
from tests.support.containers import LAMBDA

SHELL = LAMBDA | {"APP_BIN": "/bin/sh"}
FREEZER = Path("/sys/fs/cgroup/freezer")


def records(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def error_of(text):
    """Return the one error of a log, before the line that gives the exit code."""
    (found,) = [r for r in records(text) if r["level"] == "error" and r["event"] != "job_exited"]
    return found


@pytest.fixture
def results(tmp_path):
    """Return a directory that a container may have as its /tmp, as any user."""
    path = tmp_path / "results"
    path.mkdir()
    path.chmod(0o1777)
    return path


@pytest.mark.cell("application.memory")
@pytest.mark.parametrize("launcher", ["direct", "mpirun"])
def test_killed_for_memory(containers, image, results, launcher):
    """Distinguished from other kills: 137, out of memory, the limit and the peak in the line."""
    env = {
        "EXEC_TYPE": "lambda",
        "ARCHITRAVE_LAUNCHER": launcher,
        "APP_BIN": "/bin/sh",
        # A shell under mpirun ends by itself with its child's code.
        "APP_PARAMS": "-c 'echo up; dd if=/dev/zero of=/dev/null bs=1G count=1; exit $?'",
        "ARCHITRAVE_LOG_FORMAT": "json",
    }
    limits = ("--memory", "96m", "--memory-swap", "96m", "-v", f"{results}:/tmp")
    done = containers.run(image, env=env, options=limits)
    assert done.returncode == 137, done.stderr
    line = error_of(done.stderr)["message"]
    assert f"{96 << 20} bytes" in line
    peak = int(line.rpartition("the peak was ")[2].split()[0])
    assert 90 << 20 < peak <= 96 << 20
    assert json.loads((results / "run.json").read_text())["exit"]["out_of_memory"] is True


@pytest.mark.cell("application.memory")
def test_a_rank_on_a_worker_is_killed_for_memory(cluster, image):
    """All that mpirun says on the main node is 137; the worker knows why, and its limit."""
    limit = ("--memory", "400m", "--memory-swap", "400m")
    with cluster(image, "hog 1", nodes=2, docker_args=limit) as running:
        result = running.wait()
    assert codes(result) == [137, 137]
    exit_ = run_json(result)["exit"]
    assert exit_["out_of_memory"] is True
    assert "worker 1" in exit_["cause"] and f"{400 << 20} bytes" in exit_["cause"]


@pytest.mark.cell("application.memory", "application.signal")
def test_another_sigkill_is_not_called_out_of_memory(containers, lambda_image, results):
    env = SHELL | {"APP_PARAMS": "-c 'kill -9 $$'", "ARCHITRAVE_LOG_FORMAT": "json"}
    options = ("--memory", "96m", "-v", f"{results}:/tmp")
    done = containers.run(lambda_image, env=env, options=options)
    assert done.returncode == 137
    assert error_of(done.stderr)["event"] == "application_failed"
    assert json.loads((results / "run.json").read_text())["exit"]["out_of_memory"] is False


@pytest.mark.cell("application.missing")
@pytest.mark.parametrize("launcher", ["direct", "mpirun"])
def test_missing_library(job, root, launcher, tmp_path):
    """The line names every library that the program misses, as ldd does."""
    program = root / "opt/app"
    shutil.copy("/bin/ls", program)
    made = without_library(program)
    env = LAMBDA | {"APP_BIN": "/opt/app", "APP_PARAMS": "", "ARCHITRAVE_LAUNCHER": launcher}
    code, _, err = job(**env)
    assert code == 127
    line = error_of(err)
    assert made in line["message"] and "deps.tar.gz" in line["hint"]


def without_library(program):
    """Change the name of a library that a program needs into one that does not exist."""
    content = program.read_bytes()
    needed = b"libc.so.6\0"
    at = content.index(needed)
    program.write_bytes(content[:at] + b"libz.so.9\0" + content[at + len(needed) :])
    program.chmod(0o755)
    return "libz.so.9"


def of_another_machine():
    header = bytearray(Path("/bin/true").read_bytes())
    header[18:20] = (0xF7).to_bytes(2, "little")  # EM_BPF: no processor at all
    return bytes(header)


NOT_EXECUTABLE = {
    "another machine": (of_another_machine(), 126, "machine"),
    "no interpreter line": (b"echo x\n", 126, "#!"),
    "empty": (b"", 126, "#!"),
    "no interpreter": (b"#!/no/such/program\necho x\n", 127, "/no/such/program"),
    "not on PATH": (b"#!/usr/bin/env no-such-program\n", 127, "no-such-program"),
    "line ends of Windows": (b"#!/bin/sh\r\necho x\r\n", 127, "Windows"),
    "loader": (Path("/bin/true").read_bytes().replace(b"/ld-linux", b"/no-linux"), 127, "loader"),
}


# On one node the other two launchers start it as `direct` does: two kinds show that.
@pytest.mark.parametrize(
    ("launcher", "name"),
    [(launcher, name) for launcher in ("mpirun", "direct") for name in NOT_EXECUTABLE]
    + [(launcher, name) for launcher in ("each", "auto") for name in ("empty", "loader")],
)
@pytest.mark.cell("application.not-executable")
def test_what_cannot_be_executed(job, root, launcher, name):
    """The code is a shell's and the agent says why, whatever the launcher makes of it."""
    content, code, cause = NOT_EXECUTABLE[name]
    (root / "opt/app").write_bytes(content)
    (root / "opt/app").chmod(0o755)
    env = LAMBDA | {"APP_BIN": "/opt/app", "APP_PARAMS": "", "ARCHITRAVE_LAUNCHER": launcher}
    ended, _, err = job(**env)
    line = error_of(err)
    assert ended == code and "/opt/app" in line["message"], line
    exit_ = json.loads((root / "tmp/run.json").read_text())["exit"]
    assert (exit_["code"], exit_["source"]) == (code, "agent")
    if launcher == "mpirun":
        assert cause in line["message"] + line["hint"]


@pytest.mark.cell("application.not-executable")
@pytest.mark.parametrize(
    ("backend", "name"),
    [("containers", "another machine"), ("processes", "no interpreter")],
    indirect=["backend"],
)
def test_what_cannot_be_executed_on_three_nodes(cluster, backend, keys, tmp_path, name):
    content, code, cause = NOT_EXECUTABLE[name]
    directory = shutil.copytree(keys, tmp_path / "content")
    (directory / "program").write_bytes(content)
    private = pack(directory, tmp_path / "private.7z", PASSWORD)
    with cluster(backend, "exit 0", private=private) as running:
        result = running.wait()
    assert codes(result) == [code] * 3
    assert cause in errors(result.nodes[0])
    assert run_json(result)["exit"]["source"] == "agent"


@pytest.mark.cell("application.output")
@pytest.mark.slow
def test_much_output_costs_no_memory(agent, root):
    """300 MB in lines of 100 MB, with every byte there is: all in time.log, none in memory."""
    program = root / "opt/app"
    program.write_text(
        "#!/usr/bin/env python3\n"
        "import os, time\n"
        "block = bytes(b for b in range(256) if b != 10) * 4096\n"
        "for line in range(3):\n"
        "    for _ in range(100): os.write(1, block)\n"
        "    os.write(1, b'\\n')\n"
        "print('end', flush=True)\n"
        "while not os.path.exists(os.environ['TMP_OUTPUT_DIR'] + '/go'): time.sleep(0.1)\n"
    )
    program.chmod(0o755)
    block = bytes(b for b in range(256) if b != 10) * 4096
    wanted = hashlib.sha256()
    for _ in range(3):
        for _ in range(100):
            wanted.update(block)
        wanted.update(b"\n")
    wanted.update(b"end\n")
    process = agent(
        "run",
        env=LAMBDA | {"APP_BIN": "/opt/app", "APP_PARAMS": ""},
        text=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = root / "tmp/time.log"
    size = 3 * (100 * len(block) + 1) + 4
    until(lambda: log.exists() and log.stat().st_size == size, 60)
    peak = peak_memory(process.pid)
    (root / "tmp/go").touch()
    assert process.wait(20) == 0
    with log.open("rb") as file:
        assert hashlib.sha256(file.read(size)).digest() == wanted.digest()
        assert file.read().startswith(b"\nreal\t")
    assert peak < 40 << 20


def peak_memory(pid):
    """Return the peak memory of a process, in bytes."""
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmHWM"].split()[0]) << 10


@pytest.mark.cell("application.stopped")
@pytest.mark.parametrize("number", ["STOP", "TTIN", "TSTP"])
def test_stops_itself(agent, number):
    """The agent sees it and says so; SIGTERM still ends it."""
    env = SHELL | {"APP_PARAMS": f"-c 'kill -{number} $$; sleep 60'"}
    process = agent("run", env=env)
    line = until(lambda: next_record(process, "process_stopped"))
    assert line["process"] == "sh" and line["hint"].startswith("resume it: kill -CONT ")
    process.terminate()
    assert process.wait(20) == 143


def next_record(process, event):
    for line in process.stderr:
        record = json.loads(line)
        if record["event"] == event:
            return record
    raise AssertionError(f"the agent never logged {event!r}")


@pytest.mark.cell("application.unkillable")
def test_cannot_be_killed_because_it_is_frozen(agent, root, frozen):
    """A process that survives SIGKILL is abandoned 2 s after it; what it wrote is kept."""
    script = 'echo part >"$TMP_OUTPUT_DIR/part"; echo $$; sleep 600'
    env = SHELL | {"APP_PARAMS": f"-c '{script}'", "ARCHITRAVE_GRACE_SECONDS": "0.5"}
    process = agent("run", env=env)
    frozen(int(read_line(process)))
    process.terminate()
    err = process.communicate(timeout=20)[1]
    assert process.returncode == 143
    assert any(line.get("cause") == UNKILLABLE for line in records(err))
    assert (root / "tmp/part").read_text() == "part\n"


@pytest.fixture
def frozen():
    """Return what freezes a process: the kernel of cgroup v1 keeps even SIGKILL from it."""
    group = FREEZER / f"architrave-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("only root can freeze a process, and only cgroup v1 holds SIGKILL back")

    def freeze(pid):
        (group / "cgroup.procs").write_text(str(pid))
        (group / "freezer.state").write_text("FROZEN")
        until(lambda: (group / "freezer.state").read_text() == "FROZEN\n")

    yield freeze
    (group / "freezer.state").write_text("THAWED")
    until(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


@pytest.mark.cell("application.unkillable")
def test_cannot_be_killed_because_it_is_root_s(containers, lambda_image, tmp_path):
    """An application that became another user can't be signalled by an agent that isn't root."""
    program = tmp_path / "become-root"
    shutil.copy("/usr/bin/setpriv", program)
    program.chmod(0o4755)
    env = LAMBDA | {
        "APP_BIN": "/become-root",
        "APP_PARAMS": "--reuid 0 --regid 0 --clear-groups sh -c 'echo up; exec sleep 600'",
        "ARCHITRAVE_GRACE_SECONDS": "0.5",
        "ARCHITRAVE_LOG_FORMAT": "json",
    }
    options = ("--user", "993", "-v", f"{program}:/become-root:ro")
    container = containers.start(lambda_image, env=env, options=options)
    container.wait_for("up")
    code, seconds = container.stop()
    assert code == 143 and seconds < 10
    assert any(line.get("cause") == UNKILLABLE for line in records(container.errors))


@pytest.mark.cell("application.full-disk")
def test_fills_the_disk(containers, lambda_image, results):
    """The code is the application's own; the line names the file system and what is lost."""
    script = "head -c 3000000 /dev/zero >$TMP_OUTPUT_DIR/data; echo lost; exit 7"
    env = SHELL | {
        "APP_PARAMS": f"-c '{script}'",
        "TMP_OUTPUT_DIR": "/results/here",
        "ARCHITRAVE_LOG_FORMAT": "json",
    }
    options = ("--tmpfs", "/results:size=1m", "-v", f"{results}:/tmp")
    done = containers.run(lambda_image, env=env, options=options)
    assert done.returncode == 7
    assert "lost\n" in done.stdout  # shown, where it can't be kept
    line, ended = [r for r in records(done.stderr) if r["level"] == "error"][:2]
    assert (ended["event"], ended["code"]) == ("application_failed", 7)
    assert line["event"] == "output_lost" and line["path"].endswith("/time.log")
    assert "/results " in line["hint"] and line["bytes_lost"] >= len("lost\n")


@pytest.mark.cell("application.rank-dies")
def test_daemon_of_mpirun_dies(cluster, image):
    """Killing the daemon that mpirun has on a worker ends the job on all nodes, and not with 0."""
    with cluster(image, "hold") as running:
        wait_ready(running, 3)
        name = running.nodes[2].name
        subprocess.run(["docker", "exec", name, "pkill", "-KILL", "orted"], check=True)
        result = running.wait()
    codes = {node.code for node in result.nodes}
    assert len(codes) == 1 and not codes & {0, None}
    assert run_json(result)["exit"]["code"] in codes
    assert errors(result.nodes[0])
    assert {path.name for path in result.results.glob("node-*/rank-*.json")} == {
        f"rank-{rank}.json" for rank in range(3)
    }


@pytest.mark.cell("application.daemons")
def test_daemons_that_mpirun_waits_for(cluster, backend):
    """A process that a rank leaves holds its output, and so mpirun; it is ended on every node."""
    with cluster(backend, "daemon 0") as running:
        result = running.wait()
    assert [node.code for node in result.nodes] == [0] * 3, errors(result.nodes[0])
    killed = [r for node in result.nodes for r in node.records if r["event"] == "stragglers_ended"]
    assert killed
