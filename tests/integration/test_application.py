"""The application of one node: its output, its end, its limits."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.support.basics import read_line, until

LAMBDA = {"EXEC_TYPE": "lambda", "ARCHITRAVE_LAUNCHER": "direct"}


def shell(script, **env):
    """Return the environment of a lambda job that runs a script."""
    return LAMBDA | {"APP_BIN": "/bin/sh", "APP_PARAMS": f"-c '{script}'"} | env


def log_lines(err):
    return [json.loads(line) for line in err.splitlines()]


def test_the_readme_s_line(job, root):
    """The code is the application's, and time.log has its output and bash's lines."""
    env = LAMBDA | {"APP_BIN": "/bin/sh", "APP_PARAMS": "-c \"echo 'a  b'; exit 3\""}
    code, out, _ = job(**env)
    assert code == 3
    log = (root / "tmp/time.log").read_text()
    assert log == out
    assert [line.split("\t")[0] for line in log.splitlines()] == ["a  b", "", "real", "user", "sys"]
    assert (root / "tmp/batch-exit-code").read_text() == "3\n"


@pytest.mark.parametrize("launcher", ["direct", "mpirun"])
@pytest.mark.parametrize("code", [0, 1, 7, 137, 255])
@pytest.mark.cell("application.code")
def test_exit_codes(job, root, code, launcher):
    """Each code is the job's, with and without mpirun, and run.json names the source."""
    assert job(**shell(f"exit {code}", ARCHITRAVE_LAUNCHER=launcher))[0] == code
    exit_ = json.loads((root / "tmp/run.json").read_text())["exit"]
    assert (exit_["code"], exit_["source"]) == (code, "application")


@pytest.mark.parametrize("number", [1, 2, 6, 9, 11, 15])
@pytest.mark.cell("application.signal")
def test_killed_by_a_signal(job, root, number):
    assert job(**shell(f"kill -{number} $$"))[0] == 128 + number
    assert json.loads((root / "tmp/run.json").read_text())["exit"]["signal"] == number


@pytest.mark.cell("application.output")
def test_output_is_kept_byte_for_byte(agent, root, tmp_path):
    """NULs, no newline, bytes that are not text, long lines; both streams in their order."""
    program = tmp_path / "app.py"
    program.write_text(
        "import os\n"
        "for i in range(300):\n"
        "    os.write(1, bytes([i % 256]) * (i * 50)); os.write(2, b'\\0err%d\\xff' % i)\n"
        "os.write(1, b'x' * 3_000_000)\n"
    )
    wanted = b"".join(bytes([i % 256]) * (i * 50) + b"\0err%d\xff" % i for i in range(300))
    wanted += b"x" * 3_000_000
    env = LAMBDA | {"APP_BIN": sys.executable, "APP_PARAMS": str(program)}
    process = agent("run", env=env, text=False)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    log = (root / "tmp/time.log").read_bytes()
    assert log.startswith(wanted + b"\nreal\t") and out == log


def test_output_comes_as_it_is_written(agent):
    """The first line is seen while the application still runs."""
    process = agent("run", env=shell("echo first; sleep 60"))
    assert read_line(process) == "first\n"
    process.terminate()
    assert process.wait(20) == 143


@pytest.mark.cell("application.blocked-stdout")
def test_nobody_reads(agent, root):
    """A console without a reader neither stops the application nor loses a byte of time.log."""
    reader, writer = os.pipe()
    process = agent("run", env=shell("head -c 5000000 /dev/zero; echo end"), stdout=writer)
    os.close(writer)
    err = process.communicate(timeout=60)[1]
    os.close(reader)
    assert process.returncode == 0
    assert (root / "tmp/time.log").stat().st_size > 5_000_000
    missed = [line for line in log_lines(err) if line["event"] == "console_output_missed"]
    assert missed and missed[0]["bytes"] > 4_000_000


@pytest.mark.cell("application.blocked-stdout")
def test_reader_is_gone(agent, root):
    process = agent("run", env=shell("echo one; sleep 0.3; echo two"))
    read_line(process)
    process.stdout.close()
    assert process.wait(20) == 0
    assert (root / "tmp/time.log").read_text().startswith("one\ntwo\n\nreal")


@pytest.mark.cell("application.blocked-stdout")
def test_sigterm_while_nobody_reads(agent):
    reader, writer = os.pipe()
    process = agent("run", env=shell("yes"), stdout=writer, stderr=writer)
    os.close(writer)
    os.read(reader, 1000)
    process.terminate()
    assert process.wait(20) == 143
    os.close(reader)


@pytest.mark.cell("application.ignores-sigterm")
def test_grace_then_kill(agent):
    """An application that ignores SIGTERM is killed with its group after the grace period."""
    env = shell('trap "" TERM; sleep 60 & echo ready; wait; sleep 60', ARCHITRAVE_GRACE_SECONDS="1")
    process = agent("run", env=env)
    assert read_line(process) == "ready\n"
    process.terminate()
    assert process.wait(20) == 143


@pytest.mark.cell("signals.second")
def test_second_sigterm_shortens_the_grace(agent):
    process = agent("run", env=shell('trap "echo asked" TERM; echo ready; while :; do wait; done'))
    assert read_line(process) == "ready\n"
    process.terminate()
    assert read_line(process) == "asked\n"
    process.terminate()
    assert process.wait(8) == 143  # the grace period is 15 s


@pytest.mark.cell("signals.end")
def test_own_code_after_sigterm(agent):
    process = agent("run", env=shell('trap "exit 9" TERM; echo ready; sleep 60 & wait'))
    assert read_line(process) == "ready\n"
    process.terminate()
    assert process.wait(20) == 9


@pytest.mark.cell("signals.end")
def test_sigint_is_130(agent):
    process = agent("run", env=shell("echo ready; exec sleep 60"))
    assert read_line(process) == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130


@pytest.mark.cell("application.time-limit")
def test_time_limit(job, root):
    code, _, err = job(**shell("echo partial; sleep 60", ARCHITRAVE_TIMEOUT_SECONDS="0.5"))
    assert code == 124
    assert "partial" in (root / "tmp/time.log").read_text()
    assert any("ARCHITRAVE_TIMEOUT_SECONDS" in line.get("hint", "") for line in log_lines(err))


@pytest.mark.cell("application.daemons", "signals.subreaper")
def test_daemons_are_ended(job):
    """A daemon that holds the output neither keeps the agent nor outlives it."""
    code, out, _ = job(**shell("setsid sleep 600 & echo $!; exit 2"), timeout=20)
    assert code == 2
    pid = int(out.splitlines()[0])
    until(lambda: not os.path.exists(f"/proc/{pid}"))


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: None, 127),
        (lambda path: path.mkdir(), 126),
        (lambda path: path.write_text("#!/no/such/interpreter\n"), 127),
        (lambda path: path.write_bytes(b"\x7fELF" + bytes(200)), 126),
    ],
)
@pytest.mark.cell("application.missing")
def test_application_that_cannot_run(job, root, make, code):
    """Missing, a directory, no interpreter, no format of this machine: 127 or 126, and why."""
    make(root / "opt/app")
    found, _, err = job(**LAMBDA, APP_BIN="/opt/app", APP_PARAMS="")
    assert found == code
    errors = [line for line in log_lines(err) if line["level"] == "error"]
    assert "/opt/app" in errors[0]["what"] and errors[0]["hint"]


def test_made_executable(job, root):
    (root / "opt/simest").write_text("#!/bin/sh\nexit 8\n")
    assert job(**LAMBDA, APP_PARAMS="")[0] == 8


@pytest.mark.cell("security.secrets", "inherited.environment")
def test_secrets_do_not_reach_the_application(job, root):
    env = {"PRIVATE_PASSWD": "geheim-1", "AWS_SECRET_ACCESS_KEY": "geheim-2", "KEPT": "yes"}
    code, out, err = job(**shell("env; cat /proc/$PPID/cmdline"), **env)
    assert code == 0 and "KEPT=yes" in out
    run = (root / "tmp/run.json").read_text()
    assert "geheim" not in out + err + run


def test_record(job, root):
    """run.json has the command, the times, and the curves of processors and memory."""
    script = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; sleep 1.2"
    assert job(**shell(script))[0] == 0
    run = json.loads((root / "tmp/run.json").read_text())
    assert run["command"][:2] == ["/bin/sh", "-c"]
    node = run["nodes"][0]
    assert run["times"]["real"] >= 1.2
    assert node["peaks"]["cpu_seconds"] > 0 and node["peaks"]["resident_bytes"] > 0
    assert len(node["samples"]["seconds"]) >= 1
    assert [phase["phase"] for phase in node["phases"]] == ["run", "upload"]


def test_a_job_is_never_run_twice(job, root):
    """An application that starts the job again gets an error, and there is no recursion."""
    (root / "opt/again").write_text(
        f"#!/bin/sh\ncd {os.getcwd()}\nexec {sys.executable} -m agent run\n"
    )
    code, out, err = job(**LAMBDA, APP_BIN="/opt/again", APP_PARAMS="", ARCHITRAVE_ROOT=str(root))
    assert code == 75
    inner = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert [one["code"] for one in inner if one["event"] == "job_exited"] == [75], out + err


def test_an_agent_under_exec_runs_the_job_once(agent, root):
    """What SCAR does: the outer agent supervises, the inner one runs the job."""
    env = shell("echo once; exit 5")
    process = agent("/bin/sh", "-c", f"exec {sys.executable} -m agent run", env=env)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out.count("once")) == (5, 1)


@pytest.mark.cell("security.removed")
def test_nothing_is_left(job, root):
    """No key, no lock, no runtime directory stays behind."""
    job(**shell("true"))
    assert not [name for name in os.listdir(root / "tmp") if name.startswith(".architrave")]


def test_interrupted_hold(agent):
    """With a hold after a failure the container stays until SIGTERM."""
    process = agent("run", env=shell("exit 3", ARCHITRAVE_HOLD_ON_FAILURE_SECONDS="60"))
    while "container_held" not in process.stderr.readline():
        assert process.poll() is None
    process.terminate()
    assert process.wait(20) == 3


def test_no_writable_output(job, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = job(**shell("true", TMP_OUTPUT_DIR=str(tmp_path / "file/x")))
    assert code == 73 and "TMP_OUTPUT_DIR" in err


@pytest.mark.cell("security.secrets")
def test_ps_shows_no_password(agent):
    """The password is in no argument list and in no environment but the agent's own."""
    process = agent("run", env=shell("echo ready; sleep 60", PRIVATE_PASSWD="geheim-xyz"))
    read_line(process)
    seen = subprocess.run(["ps", "axeww"], capture_output=True, text=True).stdout
    holders = [line for line in seen.splitlines() if "geheim-xyz" in line]
    assert [int(line.split()[0]) for line in holders] == [process.pid]
    process.terminate()
    process.wait(20)


def test_early_leaving_reader_costs_nothing(root):
    """A reader that leaves in the middle of much output doesn't end the application."""
    env = {"PATH": os.environ["PATH"], "ARCHITRAVE_ROOT": str(root)}
    env |= shell("head -c 3000000 /dev/zero; sleep 0.2; head -c 3000000 /dev/zero; exit 6")
    line = f"{sys.executable} -m agent run 2>/dev/null | head -c 10"
    script = line + " >/dev/null; exit ${PIPESTATUS[0]}"
    assert subprocess.run(["bash", "-c", script], env=env, timeout=30).returncode == 6
    assert (root / "tmp/time.log").stat().st_size > 6_000_000


def test_parameters_that_are_no_text(agent, root):
    """A byte that isn't UTF-8 reaches the application, and the record is written."""
    env = LAMBDA | {"APP_BIN": "/usr/bin/printf", "APP_PARAMS": os.fsdecode(b"h\xff")}
    process = agent("run", env=env, text=False)
    assert process.communicate(timeout=30)[0].startswith(b"h\xff\nreal")
    assert json.loads((root / "tmp/run.json").read_text())["exit"]["code"] == 0


def test_own_run_json_is_kept(job, root):
    """A result that happens to be called run.json is the application's, and stays."""
    assert job(**shell("echo mine >$TMP_OUTPUT_DIR/run.json"))[0] == 0
    assert (root / "tmp/run.json").read_text() == "mine\n"


def test_settings_error_is_in_the_exit_code_file(job, tmp_path):
    path = tmp_path / "code"
    assert job(EXEC_TYPE="btach", AWS_BATCH_EXIT_CODE_FILE=str(path))[0] == 64
    assert path.read_text() == "64\n"


@pytest.mark.cell("machine.two-agents")
def test_second_agent_leaves_the_first_one_s_record(agent, job, root):
    """It ends with 75, and touches neither the exit code's file nor anything of the run."""
    process = agent("run", env=shell("echo ready; sleep 60"))
    read_line(process)
    assert job(**shell("true"))[0] == 75
    assert not (root / "tmp/batch-exit-code").exists() and not (root / "tmp/run.json").exists()
    process.terminate()
    assert process.wait(20) == 143
    assert (root / "tmp/batch-exit-code").read_text() == "143\n"


def test_grace_is_bounded_by_the_platform(agent):
    """However long the grace period is set, a signal's end comes inside Batch's 30 s."""
    env = shell(
        'trap "" TERM; echo ready; while :; do sleep 1; done', ARCHITRAVE_GRACE_SECONDS="99"
    )
    process = agent("run", env=env)
    read_line(process)
    process.terminate()
    assert process.wait(24) == 143
