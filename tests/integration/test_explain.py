"""`explain` says what would run and touches nothing."""

import os
import re

import pytest

from tests.support.basics import PASSWORD


def explained(agent, code=0, **env):
    process = agent("explain", env=env)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    return out + errors


@pytest.fixture
def program(root):
    path = root / "opt/program"
    path.write_text("#!/bin/sh\ntouch $TMP_OUTPUT_DIR/ran\n")
    return "/opt/program"


BATCH = {"EXEC_TYPE": "batch", "ARCHITRAVE_LAUNCHER": "direct", "PRIVATE_PASSWD": PASSWORD}


def test_it_touches_nothing(agent, root, program):
    before = sorted(root.rglob("*"))
    explained(agent, **BATCH, APP_BIN=program)
    assert sorted(root.rglob("*")) == before
    assert not (root / "opt/program").stat().st_mode & 0o111


def test_it_shows_values_sources_and_no_secret(agent, program):
    env = {"APP_BIN": program, "APP_PARAMS": f"-p '{PASSWORD}' 'a b'", "ARCHITRAVE_LUANCHER": "x"}
    text = explained(agent, **BATCH, **env)
    assert PASSWORD not in text
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert lines["PRIVATE_PASSWD"].endswith("***  (set)")
    assert lines["ARCHITRAVE_HEARTBEAT_SECONDS"].endswith("2  (default)")
    assert "ARCHITRAVE_LAUNCHER" in lines["ARCHITRAVE_LUANCHER"].split(maxsplit=1)[1]
    assert "s3://scar-architrave/batch/private.7z" in lines["fetch"]
    assert "/opt/program -p '***' 'a b'" in lines["run"]


def test_the_command_on_several_nodes_is_the_one_that_a_job_runs(agent, program):
    env = BATCH | {"APP_BIN": program, "ARCHITRAVE_LAUNCHER": "mpirun"}
    env |= {"AWS_BATCH_JOB_ID": "j", "AWS_BATCH_JOB_NUM_NODES": "3"}
    env |= {"AWS_BATCH_JOB_NODE_INDEX": "0", "ARCHITRAVE_ADDRESS": "127.0.0.2"}
    text = explained(agent, **env)
    assert "mpirun" in text and "--hostfile" in text and "plm_rsh_no_tree_spawn 1" in text
    assert re.findall(r"\d+", rows(text)["waits"]) == ["600", "1", "2"]


def rows(text):
    """Return each line by its first word."""
    return {line.split()[0]: line for line in text.splitlines() if line.strip()}


def test_defaults_are_shown_as_what_they_come_to_here(agent, root, program):
    """A name that is not set has the value that the job would use, not a rule to work out."""
    batch = {"AWS_BATCH_JOB_ID": "j", "AWS_BATCH_JOB_ATTEMPT": "2", "S3_BUCKET": "s3://b/p"}
    lines = rows(explained(agent, **batch, APP_BIN=program, PATH="/nowhere"))
    for name, value in {
        "EXEC_TYPE": "batch",
        "TMP_OUTPUT_DIR": f"{root}/tmp/output",
        "ARCHITRAVE_OUTPUT": "s3://b/p/output",
        "ARCHITRAVE_SSH_PORT": str(22 if os.geteuid() == 0 else 2222),
        "ARCHITRAVE_LAUNCHER": "auto: direct",
        "ARCHITRAVE_WORKDIR": f"{root}/tmp/output",
        "AWS_BATCH_EXIT_CODE_FILE": f"{root}/tmp/batch-exit-code",
    }.items():
        assert lines[name].split(maxsplit=1)[1] == f"{value}  (default)"
    assert lines["ARCHITRAVE_SLOTS"].split()[1].isdigit()
    assert lines["AWS_BATCH_JOB_ATTEMPT"].endswith("'2'  (set by AWS Batch)")


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"ARCHITRAVE_LAUNCHER": "direct"}, {"direct"}),
        ({"ARCHITRAVE_LAUNCHER": "auto", "PATH": "/nowhere"}, {"archives", "mpirun"}),
        ({"ARCHITRAVE_LAUNCHER": "mpirun", "PATH": "/nowhere"}, {"mpirun"}),
    ],
)
def test_what_runs_on_a_worker(agent, program, env, named):
    """A worker names what decides whether something runs there: launcher, archives, mpirun."""
    node = {"AWS_BATCH_JOB_ID": "j", "AWS_BATCH_JOB_NUM_NODES": "2"}
    node |= {"AWS_BATCH_JOB_NODE_INDEX": "1"}
    node |= {"AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS": "127.0.0.1"}
    text = explained(agent, **BATCH | node | env, APP_BIN=program)
    words = set(re.findall(r"\w+", rows(text)["run"]))
    assert words & {"direct", "archives", "mpirun"} == named


def test_bad_settings_are_an_error_as_ever(agent):
    text = explained(agent, 78, EXEC_TYPE="batch", ARCHITRAVE_SLOTS="many")
    assert "ARCHITRAVE_SLOTS='many'" in text
