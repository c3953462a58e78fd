"""What of a program's files reaches S3, with a real S3 server; what does not is named."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from tests.support.basics import pack, read_line, slow, until
from tests.support.containers import docker


@pytest.fixture
def batch(s3_env):
    """Return the environment of a batch job on one node that runs a script and fetches nothing."""
    prefix = os.urandom(4).hex()

    def env(script, **more):
        return s3_env | {
            "EXEC_TYPE": "batch",
            "AWS_BATCH_JOB_ID": f"job-{prefix}",
            "S3_BUCKET": f"s3://bucket/{prefix}",
            "S3_BATCH_DEPS_REL_PATH": "<none>",
            "S3_BATCH_PRIVATE_REL_PATH": "<none>",
            "ARCHITRAVE_LAUNCHER": "direct",
            "APP_BIN": "/bin/sh",
            "APP_PARAMS": f"-c '{script}'",
            **more,
        }

    return env


@pytest.fixture
def delivered(s3, tmp_path):
    """Return what gives a job's objects by name, the manifest checked against their bytes."""

    def delivered(env, attempt=1):
        prefix = env["S3_BUCKET"].rpartition("/")[2]
        base = f"{prefix}/output/{env['AWS_BATCH_JOB_ID']}/attempt-{attempt}/"
        directory = tmp_path / f"delivered-{attempt}"
        found = {
            str(path.relative_to(directory)): path.read_bytes()
            for path in s3.download("bucket", base, directory)
        }
        files = json.loads(found["manifest.json"])["files"]
        sums = {file["path"]: (file["size"], file["sha256"]) for file in files}
        assert sums == {
            name: (len(content), hashlib.sha256(content).hexdigest())
            for name, content in found.items()
            if name.startswith("node-")
        }
        return found

    return delivered


def log_lines(err):
    return [json.loads(line) for line in err.splitlines()]


def test_what_a_program_writes_beside_itself_is_a_result(job, root, batch, delivered):
    """The working directory is the output directory, which the agent makes."""
    env = batch("pwd; echo 1 >beside; mkdir d; echo 2 >d/e")
    code, out, err = job(**env)
    assert (code, out.splitlines()[0]) == (0, f"{root}/tmp/output"), err
    found = delivered(env)
    assert (found["node-0/beside"], found["node-0/d/e"]) == (b"1\n", b"2\n")
    assert json.loads(found["run.json"])["nodes"][0]["unsaved"] is None


def test_what_is_left_in_another_working_directory_is_named(job, root, batch, delivered):
    """In the log, run.json and the page, with the setting that keeps it; what was there is not."""
    workdir = root / "work"
    workdir.mkdir()
    (workdir / "input").write_text("there before\n")
    env = batch("echo 1 >lost; mkdir d; echo 2 >d/e", ARCHITRAVE_WORKDIR=str(workdir))
    code, _, err = job(**env)
    assert code == 0, err
    warning = next(line for line in log_lines(err) if line["event"] == "workdir_not_uploaded")
    assert (warning["files"], warning["count"]) == (["d/e", "lost"], 2)
    assert "ARCHITRAVE_WORKDIR" in warning["hint"]
    assert f"TMP_OUTPUT_DIR={workdir}" in warning["hint"]
    found = delivered(env)
    assert [name for name in found if name.startswith("node-")] == ["node-0/time.log"]
    named = {"directory": str(workdir), "files": ["d/e", "lost"], "count": 2}
    assert json.loads(found["run.json"])["nodes"][0]["unsaved"] == named
    page = found["report.html"].decode()
    assert f"d/e, lost in the working directory {workdir}" in page


def test_results_in_a_directory_below_the_working_one_are_not_called_lost(job, root, batch):
    """What goes up is not named, nor what the agent itself keeps in /tmp."""
    env = batch("echo 1 >$TMP_OUTPUT_DIR/kept", ARCHITRAVE_WORKDIR=str(root / "tmp"))
    code, _, err = job(**env)
    assert code == 0 and "workdir_not_uploaded" not in err, err


def test_a_second_attempt_takes_what_the_first_had_computed(agent, root, batch, delivered):
    """On a kept volume: the first attempt is killed with its results there, the second brings all.

    What an earlier run's agent wrote there is not a result.
    """
    output = root / "tmp/output"
    first = agent("run", env=batch("echo 1 >one; mkdir d; echo 2 >d/two; echo up; exec sleep 600"))
    assert read_line(first) == "up\n"
    os.killpg(first.pid, 9)
    first.wait(10)
    (output / "run.json").write_text('{"schema": "architrave-run/1", "job": "the first"}')
    env = batch("cat one d/two; echo 3 >three", AWS_BATCH_JOB_ATTEMPT="2")
    second = agent("run", env=env)
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert out.startswith("1\n2\n")
    found = delivered(env, attempt=2)
    results = {name for name in found if name.startswith("node-")}
    assert results == {f"node-0/{name}" for name in ("one", "d/two", "three", "time.log")}
    assert json.loads((output / "run.json").read_text())["attempt"] == 2


def test_what_private_7z_brings_is_no_result(job, root, batch, delivered, s3, keys, tmp_path):
    """Not even where the results' directory is the one that it is unpacked into; keys least."""
    (tmp_path / "private").mkdir()
    for name in ("ssh_host_rsa_key", "ssh_host_rsa_key.pub"):
        shutil.copy(keys / name, tmp_path / "private")
    (tmp_path / "private/input").write_text("1")
    (tmp_path / "private/state").write_text("1")
    (root / "opt/earlier").write_text("0")
    env = batch("echo 2 >>state; touch ssh_host_rsa_key", TMP_OUTPUT_DIR=str(root / "opt"))
    env["S3_BATCH_PRIVATE_REL_PATH"] = "batch/private.7z"
    archive = pack(tmp_path / "private", tmp_path / "private.7z")
    s3.put_file("bucket", env["S3_BUCKET"].rpartition("/")[2] + "/batch/private.7z", archive)
    code, _, err = job(**env)
    assert code == 0, err
    results = {name for name in delivered(env) if name.startswith("node-")}
    assert results == {f"node-0/{name}" for name in ("earlier", "state", "time.log")}


@pytest.fixture
def image_with_files(image):
    """Return an image of the test's own that has files in /results."""
    tag = f"{image}-results"
    dockerfile = f"FROM {image}\nRUN mkdir /results && touch /results/one /results/two\n"
    docker("build", "-q", "--label", "architrave", "-t", tag, "-", input=dockerfile)
    yield tag
    docker("rmi", "-f", tag)


def test_files_of_the_image_are_no_results(
    containers, image_with_files, batch, delivered, tmp_path
):
    """In a container: what the image has in the directory stays, on a volume everything goes up."""
    tag = image_with_files
    env = batch("echo 1 >>one; echo 3 >three", TMP_OUTPUT_DIR="/results")
    done = containers.run(tag, env=env, options=("--network", "host"))
    assert done.returncode == 0, done.stderr
    results = {name for name in delivered(env) if name.startswith("node-")}
    assert results == {f"node-0/{name}" for name in ("one", "three", "time.log")}
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume/of-the-first").write_text("1")
    options = ("--network", "host", "-v", f"{tmp_path}/volume:/results")
    env["AWS_BATCH_JOB_ATTEMPT"] = "2"
    done = containers.run(tag, env=env, options=options)
    assert done.returncode == 0, done.stderr
    results = {name for name in delivered(env, attempt=2) if name.startswith("node-")}
    assert results == {f"node-0/{name}" for name in ("of-the-first", "one", "three", "time.log")}


def outputs(env, found, node=0):
    """Return a node's files by name."""
    start = f"node-{node}/"
    return {n.removeprefix(start): data for n, data in found.items() if n.startswith(start)}


def real(log):
    """Return what a log has before the lines of `time`."""
    return log.rpartition(b"\nreal\t")[0]


@pytest.mark.cell("application.own-log")
@pytest.mark.parametrize("script", ["rm -rf $TMP_OUTPUT_DIR/*", "rm -rf $TMP_OUTPUT_DIR"])
def test_a_program_that_empties_its_output_directory(job, root, batch, delivered, script):
    """The agent's log is whole, on S3 and in the directory, which is made again."""
    env = batch(f"echo before; {script}; mkdir -p $TMP_OUTPUT_DIR; cd /; echo after")
    code, out, err = job(**env)
    assert code == 0, err
    log = delivered(env)["node-0/time.log"]
    assert real(log) == b"before\nafter\n"
    assert (root / "tmp/output/time.log").read_bytes() == log == out.encode()
    assert not list((root / "tmp/output").glob(".architrave*"))


OWN_LOGS = {
    "truncates": ("echo mine >time.log", b"mine\n"),
    "empties": (": >time.log", b""),
    "replaces": ("echo mine >new; mv new time.log", b"mine\n"),
    "appends": ("echo mine >>time.log", b"mine\n"),
    "holds": (
        "exec 5>time.log; echo mine >&5; echo between; sleep 0.3; echo too >&5",
        b"mine\ntoo\n",
    ),
}


@pytest.mark.cell("application.own-log")
@pytest.mark.parametrize("before", ["echo before; sleep 0.3; ", slow("sleep 0.3; "), slow("")])
@pytest.mark.parametrize("how", OWN_LOGS)
def test_a_program_with_a_time_log_of_its_own(job, root, batch, delivered, how, before):
    """Its file keeps its bytes and its name, and the agent's goes up whole beside it."""
    script, wanted = OWN_LOGS[how]
    env = batch(f"{before}{script}; sleep 0.3; echo after")
    code, out, err = job(**env)
    assert code == 0, err
    found = outputs(env, delivered(env))
    assert set(found) == {"time.log", "architrave-time.log"}
    assert found["time.log"] == wanted
    assert found["architrave-time.log"] == out.encode()
    assert out.startswith("before\n" if "before" in before else "") and "after\n\nreal" in out
    directory = root / "tmp/output"
    assert {path.name: path.read_bytes() for path in directory.glob("*.log")} == found
    warning = next(line for line in log_lines(err) if "its" in line)
    assert warning["its"] == f"{directory}/time.log"
    assert warning["agents"] == f"{directory}/architrave-time.log"


def test_time_log_follows_while_the_program_runs(agent, root, batch):
    """What has been printed can be read there a moment later."""
    agent("run", env=batch("echo first; exec sleep 600"))
    log = root / "tmp/output/time.log"
    until(lambda: log.exists() and log.read_bytes() == b"first\n")


def test_much_output_is_not_kept_twice(agent, root, batch):
    """The visible copy is dropped for the file itself: a gigabyte takes a gigabyte."""
    env = batch("head -c 1000000000 /dev/zero", ARCHITRAVE_OUTPUT="<none>")
    process = agent("run", env=env, stdout=subprocess.DEVNULL)
    assert process.wait(60) == 0
    log = root / "tmp/output/time.log"
    assert 1_000_000_000 < log.stat().st_size < 1_000_000_100
    assert log.stat().st_nlink == 1 and not list(log.parent.glob(".architrave*"))


@pytest.fixture
def frozen(tmp_path):
    """Return a file system of its own, and what holds every write to it until it is let go."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a file system")
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    commands = (
        ["truncate", "-s", "64M", image],
        ["mkfs.ext4", "-q", image],
        ["mount", "-o", "loop", image, mount],
    )
    for command in commands:
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no file system can be mounted here")

    def freeze(on):
        subprocess.run(["fsfreeze", "--freeze" if on else "--unfreeze", mount], check=True)

    yield mount, freeze
    subprocess.run(["fsfreeze", "--unfreeze", mount], capture_output=True)
    subprocess.run(["umount", mount], check=True)


def test_a_file_system_that_holds_a_write(agent, batch, frozen):
    """The loop goes on meanwhile: a signal is handled at once. Nothing of the output is lost."""
    mount, freeze = frozen
    script = "trap \"echo received >$OUT\" USR1; echo up; read x <$IN; echo 1; echo 2; " \
        "while ! test -e $OUT; do :; done; echo 3"  # fmt: skip
    fifo, received = mount.parent / "in", mount.parent / "out"
    os.mkfifo(fifo)
    env = batch(script, TMP_OUTPUT_DIR=f"{mount}/output", ARCHITRAVE_OUTPUT="<none>")
    env |= {"IN": str(fifo), "OUT": str(received), "ARCHITRAVE_WORKDIR": str(mount.parent)}
    process = agent("run", env=env)
    assert read_line(process) == "up\n"
    freeze(True)
    fifo.write_text("go\n")
    time.sleep(1)  # the write is held by now, or comes later
    process.send_signal(signal.SIGUSR1)
    until(received.exists, 5)
    freeze(False)
    assert process.wait(30) == 0
    assert real((mount / "output/time.log").read_bytes()) == b"up\n1\n2\n3\n"


def test_directories_are_excluded_and_core_dumps_left_out(job, batch, delivered):
    """Each that isn't uploaded is named, and the pattern that matches nothing."""
    core = r"\177ELF\2\1\1" + r"\0" * 9 + r"\4\0"
    script = f'mkdir scratch; touch scratch/a kept; printf "{core}" >core.12'
    env = batch(script, ARCHITRAVE_OUTPUT_EXCLUDE="./scratch/ *.none")
    code, _, err = job(**env)
    assert code == 0, err
    assert set(outputs(env, delivered(env))) == {"kept", "time.log"}
    lines = {line["event"]: line for line in log_lines(err)}
    assert lines["core_dumps_not_uploaded"]["files"] == ["core.12"]
    assert lines["exclude_unmatched"]["patterns"] == ["*.none"]
