"""What of a program's files reaches S3, with a real S3 server; what does not is named."""

import hashlib
import json
import os

import pytest


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
        place = f"{prefix}/output/{env['AWS_BATCH_JOB_ID']}/attempt-{attempt}/"
        directory = tmp_path / f"delivered-{attempt}"
        found = {
            str(path.relative_to(directory)): path.read_bytes()
            for path in s3.download("bucket", place, directory)
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
    warning = next(line for line in log_lines(err) if "working directory" in line["event"])
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
    assert code == 0 and "working directory" not in err, err
