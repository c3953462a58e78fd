"""`explain` says what would run and touches nothing."""

import pytest

from tests.conftest import PASSWORD


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
    assert "ARCHITRAVE_LAUNCHER?" in lines["ARCHITRAVE_LUANCHER"]
    assert "s3://scar-architrave/batch/private.7z" in lines["fetch"]
    assert "/opt/program -p '***' 'a b'" in lines["run"]


def test_the_command_on_several_nodes_is_the_one_that_a_job_runs(agent, program):
    env = BATCH | {"APP_BIN": program, "ARCHITRAVE_LAUNCHER": "mpirun"}
    env |= {"AWS_BATCH_JOB_ID": "j", "AWS_BATCH_JOB_NUM_NODES": "3"}
    env |= {"AWS_BATCH_JOB_NODE_INDEX": "0", "ARCHITRAVE_ADDRESS": "127.0.0.2"}
    text = explained(agent, **env)
    assert "mpirun" in text and "--hostfile" in text and "plm_rsh_no_tree_spawn 1" in text
    assert "waits 600 s for workers 1, 2" in text


def test_bad_settings_are_an_error_as_ever(agent):
    text = explained(agent, 78, EXEC_TYPE="batch", ARCHITRAVE_SLOTS="many")
    assert "ARCHITRAVE_SLOTS='many'" in text
