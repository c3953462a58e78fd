"""What a person sees of a job on this machine: its logs, and a shell on its nodes."""

import os
import pty
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.basics import REPOSITORY, until

pytestmark = pytest.mark.timeout(120)

ARCHITRAVE = (sys.executable, "-m", "agent")


def architrave(*arguments, text=""):
    """Run a command of this machine's to its end; return (exit code, stdout, stderr)."""
    done = subprocess.run(
        [*ARCHITRAVE, *arguments],
        cwd=REPOSITORY,
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def held(node):
    """Return the hint of a node that is held, once it is."""

    def hint():
        return next((r["hint"] for r in node.records if r["event"] == "container_held"), None)

    return until(hint, 60)


def test_a_failed_job_is_held(cluster, backend):
    """A shell on a held node finds everything ready, and changes nothing; then all nodes exit."""
    with cluster(backend, "exit 7", nodes=2, hold=True) as running:
        hint = held(running.states[0])
        held(running.states[1])
        job = ("--job", running.job.job_id)
        script = "echo $APP_BIN; tail -n 3 $TMP_OUTPUT_DIR/time.log; ls /tmp/batch; exit 9\n"
        code, out, banner = architrave("local", "shell", "main", *job, text=script)
        assert code == 9 and "/opt/program" in out and "real\t0m" in out
        assert f"beside job {running.job.job_id}, attempt 1, on main, node 0 of 2" in banner
        assert "ssh -F" in banner and running.states[1].address in banner
        if backend:
            # The hint is the exact command.
            argv = shlex.split(hint.partition(";")[0])
            assert argv[:3] == ["docker", "exec", "-it"]
            argv[2] = "-i"
            done = subprocess.run(
                argv, input="exit 5\n", text=True, capture_output=True, timeout=60
            )
            assert done.returncode == 5 and "beside job" in done.stderr
        # From the main node the others are reached.
        reach = banner.partition("other nodes:")[2].splitlines()[0].strip()
        code, out, _ = architrave("local", "shell", *job, text=f"{reach} echo there\n")
        assert (code, out) == (0, "there\n")
        assert architrave("local", "shell", "worker:1", *job, text="exit 4\n")[0] == 4
        running.stop()
        result = running.wait()
    assert [node.code for node in result.nodes] == [7, 7]
    assert architrave("local", "shell", "worker:1", *job)[0] == 66


def test_a_shell_beside_a_job_on_a_terminal(cluster, image):
    """The banner, a prompt, and the job goes on undisturbed when the shell ends."""
    with cluster(image, "last 100 0", nodes=1) as running:
        running.wait_phase(0, "run")
        leader, follower = pty.openpty()
        argv = [*ARCHITRAVE, "local", "shell", "--job", running.job.job_id]
        ends = {"stdin": follower, "stdout": follower, "stderr": follower}
        process = subprocess.Popen(argv, cwd=REPOSITORY, env=os.environ | {"TERM": "xterm"}, **ends)
        os.close(follower)
        seen = b""
        while b"# " not in seen:
            seen += os.read(leader, 4096)
        assert b"beside job" in seen and b"it runs:" in seen and b"/opt/program last 100 0" in seen
        os.write(leader, b"exit 3\n")
        assert process.wait(20) == 3
        os.close(leader)
        assert running.states[0].code is None
        running.stop()
        assert running.wait().code == 143


def test_logs_of_every_node(cluster):
    """Lines are marked by node, the follower ends with the job, and one node can be chosen."""
    with cluster(None, "exit 3", nodes=2) as running:
        results = str(running.job.results_dir)
        argv = [*ARCHITRAVE, "local", "logs", "--results", results, "--follow"]
        follower = subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        running.wait()
    followed = follower.communicate(timeout=20)[0]
    code, every, _ = architrave("local", "logs", "--results", results)
    assert (code, every) == (0, followed)
    assert " main        fetch: phase" in every and " worker 1    join: phase" in every
    assert " main        exit 3 (application)" in every
    chosen = architrave("local", "logs", "--results", results, "worker:1")[1]
    assert chosen and set(chosen.splitlines()) < set(every.splitlines())
    assert all(" worker 1 " in line for line in chosen.splitlines())


def test_the_end_of_a_failed_job(cluster, tmp_path):
    """A job that failed says why, and the application's last lines, once and at the end."""
    with cluster(None, "exit 3", nodes=1, env={"ARCHITRAVE_LAUNCHER": "direct"}) as running:
        result = running.wait()
    last = result.nodes[0].records[-1]
    assert (last["event"], last["code"], last["source"]) == ("job_exited", 3, "application")
    assert last["hint"] and last["last_lines"][-4:-3] == [""]
    assert last["last_lines"][-3].startswith("real\t")


@pytest.mark.parametrize("arguments", [("shell", "worker:7"), ("logs", "--results", "nowhere")])
def test_what_is_not_there(arguments):
    code, _, err = architrave("local", *arguments)
    assert code == 66 and "hint: " in err


def test_no_node_of_that_name():
    code, _, err = architrave("local", "shell", "boss")
    assert code == 64 and "'boss'" in err


@pytest.mark.cell("security.shell")
def test_a_shell_takes_nothing_from_a_process_that_only_looks_like_a_node(cluster, tmp_path):
    """Neither another user's nor one outside a run's own directory, however new it is."""
    marker = tmp_path / "ran"
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent/__main__.py").write_text("input()\n")
    evil = {"PATH": os.environ["PATH"], "AWS_BATCH_JOB_ID": "zz-fake", "BASH_ENV": str(marker)}
    roots = [tmp_path / "architrave-x/node-0", Path(tempfile.gettempdir()) / "node-0"]
    roots[0].parent.mkdir(mode=0o777)
    (roots[0].parent / "owner").write_text("x")
    roots[0].parent.chmod(0o777)
    for root in roots:
        fake = subprocess.Popen(
            [sys.executable, "-m", "agent", "run"],
            env=evil | {"ARCHITRAVE_ROOT": str(root)},
            cwd=tmp_path,
            stdin=subprocess.PIPE,
        )
        try:
            until(lambda fake=fake: b"agent" in Path(f"/proc/{fake.pid}/cmdline").read_bytes())
            code, out, err = architrave("local", "shell", "--job", "zz-fake", text="echo in\n")
        finally:
            fake.kill()
            fake.wait()
        assert code == 66 and "in" not in out.split(), err


@pytest.mark.skipif(os.geteuid() != 0, reason="starts a process as another user")
@pytest.mark.cell("security.shell")
def test_a_shell_takes_nothing_from_another_user_s_process(tmp_path):
    """Not even where it names a directory of this user's own run."""
    run = tmp_path / "architrave-run"
    run.mkdir(mode=0o700)
    (run / "owner").write_text("x")
    env = {"AWS_BATCH_JOB_ID": "zz-fake", "ARCHITRAVE_ROOT": str(run / "node-0")}
    with tempfile.TemporaryDirectory() as open_directory:
        script = Path(open_directory) / "agent"
        script.write_text("read line\n")
        os.chmod(open_directory, 0o755)
        for user, code in (("nobody", 66), (None, 0)):
            # bash here, which looks like a node by its arguments.
            fake = subprocess.Popen(
                ["python3", "-m", "agent", "run"],
                executable="/bin/bash",
                env=env,
                cwd=open_directory,
                stdin=subprocess.PIPE,
                user=user,
            )
            try:
                cmdline = Path(f"/proc/{fake.pid}/cmdline")
                until(lambda cmdline=cmdline: b"agent\0run" in cmdline.read_bytes())
                ended, _, err = architrave("local", "shell", "--job", "zz-fake", text="exit 0\n")
            finally:
                fake.kill()
                fake.wait()
            assert ended == code, err


def test_a_node_s_shell_is_isolated(cluster, tmp_path, monkeypatch):
    """Neither its working directory nor a variable chooses what Python loads."""
    (tmp_path / "agent.py").write_text("raise SystemExit(99)\n")
    env = {"PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": "x", "SOMETHING": "else"}
    with cluster(None, "exit 7", nodes=1, hold=True, env=env) as running:
        held(running.states[0])
        monkeypatch.chdir(tmp_path)
        job = ("--job", running.job.job_id)
        code, out, err = architrave(
            "local", "shell", *job, text="echo $APP_BIN,$SOMETHING,; exit 3"
        )
        assert code == 3 and out.endswith("/opt/program,,\n"), err
        running.stop()
