"""What programs want that a container or a launcher does not give by itself."""

import json

import pytest

from tests.integration.test_application import log_lines, shell

DIRECT = {"EXEC_TYPE": "lambda", "ARCHITRAVE_LAUNCHER": "direct"}


def exit_of(root):
    return json.loads((root / "tmp/run.json").read_text())["exit"]


def fields(err, event):
    """Return the fields of the one log line of an event."""
    (line,) = [line for line in log_lines(err) if line["event"] == event]
    return line


@pytest.mark.parametrize("launcher", ["direct", "mpirun"])
@pytest.mark.cell("application.stdin")
def test_standard_input_is_a_file(job, root, launcher):
    (root / "tmp").mkdir()
    (root / "tmp/in.txt").write_text("one\ntwo\n")
    env = {"ARCHITRAVE_STDIN": "in.txt", "ARCHITRAVE_WORKDIR": str(root / "tmp")}
    code, out, err = job(**shell("cat; exit 3", ARCHITRAVE_LAUNCHER=launcher, **env))
    assert code == 3 and out.startswith("one\ntwo\n"), err


@pytest.mark.cell("application.stdin")
def test_standard_input_is_empty_unless_asked_for(agent):
    process = agent("run", env=shell("cat; exit 3"), stdin=-1)
    out, err = process.communicate("the agent's own", timeout=30)
    assert process.returncode == 3 and "own" not in out, err


@pytest.mark.cell("application.stdin")
def test_an_input_that_is_missing_is_named(job, root):
    code, _, err = job(**shell("touch $TMP_OUTPUT_DIR/ran", ARCHITRAVE_STDIN="/missing/in.txt"))
    assert code == 78 and exit_of(root)["source"] == "agent"
    last = fields(err, "job_exited")
    assert "/missing/in.txt" in last["cause"] and "ARCHITRAVE_STDIN" in last["hint"]
    assert not (root / "tmp/ran").exists()


@pytest.mark.cell("application.stdin")
def test_limits_are_the_programs_alone(job, root):
    limits = "stack=unlimited core=0 nofile=64:128"
    code, out, err = job(**shell("ulimit -s; ulimit -n; ulimit -Hn", ARCHITRAVE_ULIMITS=limits))
    assert code == 0 and out.split()[:3] == ["unlimited", "64", "128"], err


@pytest.mark.cell("application.stdin")
def test_a_limit_that_nobody_may_set_ends_the_job(job):
    code, out, err = job(**shell("echo ran", ARCHITRAVE_ULIMITS=f"nofile={1 << 40}"))
    assert code == 78 and "ran" not in out
    assert "nofile" in fields(err, "job_exited")["cause"]
    assert "application_starting" not in [line["event"] for line in log_lines(err)]


@pytest.mark.parametrize("launcher", ["direct", "mpirun"])
@pytest.mark.cell("application.signal")
def test_a_segmentation_fault_names_the_stack_limit(job, root, launcher):
    env = shell("kill -11 $$", ARCHITRAVE_LAUNCHER=launcher)
    code, _, err = job(**env, ARCHITRAVE_ULIMITS="stack=8388608")
    assert code == 139 == exit_of(root)["code"]
    last = fields(err, "job_exited")
    assert "8192 KiB" in last["cause"] and "stack=unlimited" in last["hint"]


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("name", ["./app.sh", "sub/../app.sh"])
def test_a_relative_program_is_looked_for_where_it_runs(job, root, name):
    script(root / "opt/app.sh", "echo here")
    (root / "opt/sub").mkdir()
    code, out, err = job(**DIRECT, APP_BIN=name, ARCHITRAVE_WORKDIR=str(root / "opt"))
    assert code == 0 and out.startswith("here\n"), err


@pytest.mark.parametrize("name", ["opt/app.sh", "./app.sh", "/opt/bin/app.sh", "app.sh"])
def test_a_program_that_is_in_opt_is_named(job, root, name):
    script(root / "opt/app.sh", "echo here")
    code, out, err = job(**DIRECT, APP_BIN=name)
    assert code == 127 and "here" not in out
    assert f"{root}/opt/app.sh" in fields(err, "job_exited")["hint"]


def test_a_program_below_a_directory_of_the_archive_is_named(job, root):
    """As of an archive that was made of a directory, and not of what is in it."""
    (root / "opt/vendor/bin").mkdir(parents=True)
    script(root / "opt/vendor/bin/app", "echo here")
    code, _, err = job(**DIRECT, APP_BIN="/opt/app")
    assert code == 127
    assert f"APP_BIN={root}/opt/vendor/bin/app" in fields(err, "job_exited")["hint"]


def test_arguments_that_need_a_shell_are_named(job, root):
    """In one warning; the program gets them unchanged."""
    script(root / "opt/app", 'printf "%s\\n" "$@"')
    code, out, err = job(**DIRECT, APP_BIN="/opt/app", APP_PARAMS="a < x.txt $HOME")
    assert code == 0 and out.split("\n")[:4] == ["a", "<", "x.txt", "$HOME"]
    assert fields(err, "shell_syntax_literal")["arguments"] == ["<", "$HOME"]


@pytest.mark.parametrize("code", [0, 1])
def test_arguments_that_are_in_opt_are_named_after_a_failure(job, root, code):
    """A program, or a script that starts it, may look there itself."""
    script(root / "opt/app", f"exit {code}")
    (root / "opt/in.dat").touch()
    ended, _, err = job(**DIRECT, APP_BIN="/opt/app", APP_PARAMS="in.dat")
    assert ended == code
    if code:
        assert fields(err, "arguments_not_found")["arguments"] == ["in.dat"]
    else:
        assert "arguments_not_found" not in err


def test_a_misspelt_name_is_named(job):
    code, _, err = job(**shell("true", ARCHITRAVE_TIMEOUT="60", ARCHITRAVE_XYZZY="1"))
    assert code == 0
    found = [line for line in log_lines(err) if line["event"] == "variable_unknown"]
    assert [line["name"] for line in found] == ["ARCHITRAVE_TIMEOUT", "ARCHITRAVE_XYZZY"]
    assert "ARCHITRAVE_TIMEOUT_SECONDS" in found[0]["hint"]
