"""The debug shell: what it prepares, what its banner shows, what else may use the directory."""

import subprocess
import sys

import pytest

from tests.support.basics import pack


@pytest.fixture
def env(root, s3, s3_env, keys, tmp_path):
    """Return the environment of a job whose program wants what private.7z has."""
    s3.put_file("bucket", "shell/private.7z", pack(keys, tmp_path / "private.7z"))
    (root / "opt/app").write_text("#!/bin/sh\ntest -e ${0%/*}/ssh_host_rsa_key && exit 7\n")
    return s3_env | {
        "APP_BIN": "/opt/app",
        "S3_BUCKET": "s3://bucket/shell",
        "S3_BATCH_PRIVATE_REL_PATH": "private.7z",
        "S3_BATCH_DEPS_REL_PATH": "<none>",
        "ARCHITRAVE_LAUNCHER": "direct",
        "AWS_BATCH_JOB_ID": "by-hand",
        "EXEC_TYPE": "shell",
    }


def test_shell_takes_commands_from_standard_input(agent):
    """Without a terminal the shell runs what it reads, with the job's environment."""
    process = agent("shell", env={"APP_BIN": "/opt/app", "X": "1"}, stdin=subprocess.PIPE)
    out, err = process.communicate("cd $TMP_OUTPUT_DIR && echo got $X $PWD; exit 4\n", timeout=20)
    assert process.returncode == 4
    assert out.startswith("got 1 /")
    assert "/opt/app" in err


def test_shell_starts_the_job_by_its_banner(agent, root, env):
    """The banner's line runs the job that the shell is for; then nothing decrypted is left."""
    process = agent("shell", env=env, stdin=subprocess.PIPE)
    line = next(line for line in process.stderr if "architrave run" in line)
    command = line.partition(":")[2].strip()
    assert command == "EXEC_TYPE=batch architrave run"
    command = command.replace("architrave", f"{sys.executable} -m agent")
    out, err = process.communicate(f"{command}; echo code $?\n", timeout=60)
    assert out.endswith("code 7\n"), err
    assert [path.name for path in (root / "opt").iterdir()] == ["app"]
    assert not list(root.rglob(".architrave*"))


def test_shell_by_its_other_names(agent):
    """Each shows the banner, with the line that starts the job, and exits with the shell's code."""
    for arguments, env in ((["debug"], {}), (["bash"], {}), ([], {"EXEC_TYPE": "SHELL"})):
        process = agent(*arguments, env=env, stdin=subprocess.PIPE)
        assert "architrave run" in process.communicate("exit 3\n", timeout=20)[1]
        assert process.returncode == 3
    assert agent("bash", "-c", "exit 5").wait(20) == 5


def test_a_second_shell_changes_nothing(agent, root, env):
    """It is attached to the first one's files, and takes none of them away at its end."""
    first = agent("shell", env=env, stdin=subprocess.PIPE)
    next(line for line in first.stderr if "architrave run" in line)
    second = agent("shell", env=env, stdin=subprocess.PIPE)
    out, err = second.communicate("ls $ARCHITRAVE_ROOT/opt\n", timeout=20)
    assert "ssh_host_rsa_key" in out and "by-hand" in err
    first.communicate("test -e $ARCHITRAVE_ROOT/opt/ssh_host_rsa_key && exit 5\n", timeout=20)
    assert first.returncode == 5
    assert [path.name for path in (root / "opt").iterdir()] == ["app"]
