"""Reading the environment."""

import os
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import settings, variables
from agent.core.errors import AgentError
from agent.tools.pack.private import password as pack_password

ARGUMENTS = st.text(string.ascii_letters + string.digits + "._/=-", min_size=1, max_size=12)
VALUES = st.text(st.characters(blacklist_characters="\0"), max_size=30)


def read(**env):
    return settings.read({"EXEC_TYPE": "batch", **env})


@pytest.mark.parametrize(
    ("env", "mode"),
    [
        ({"EXEC_TYPE": "lambda"}, "lambda"),
        ({"EXEC_TYPE": "BATCH"}, "batch"),
        ({"EXEC_TYPE": "Shell"}, "shell"),
        ({"AWS_BATCH_JOB_ID": "j"}, "batch"),
        ({"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001"}, "lambda"),
        ({"EXEC_TYPE": "", "AWS_BATCH_JOB_ID": "j", "AWS_LAMBDA_RUNTIME_API": "x"}, "batch"),
        ({"EXEC_TYPE": "lambda", "AWS_BATCH_JOB_ID": "j"}, "lambda"),
    ],
)
def test_mode(env, mode):
    """EXEC_TYPE decides in any case; without it the platform's own variables do."""
    assert settings.read(env).mode == mode


@pytest.mark.parametrize("env", [{}, {"AWS_LAMBDA_FUNCTION_NAME": "f"}, {"EXEC_TYPE": "btach"}])
def test_mode_unknown(env):
    """No mode, or one that doesn't exist, is 64; the function's name decides nothing."""
    with pytest.raises(AgentError) as caught:
        settings.read(env)
    assert caught.value.code == 64
    for value in ("lambda", "batch", "shell"):
        assert value in str(caught.value) + caught.value.hint


def test_wrong_mode_is_named():
    with pytest.raises(AgentError, match="btach"):
        settings.read({"EXEC_TYPE": "btach"})


def test_params_are_split_like_a_shell():
    """Quotes keep an argument together, and nothing in them is run or expanded."""
    command = read(APP_BIN="/bin/app", APP_PARAMS="""-c "echo a  b; exit 3" '$HOME' \\;""").command
    assert command == ("/bin/app", "-c", "echo a  b; exit 3", "$HOME", ";")


def test_older_form():
    """Without APP_PARAMS the order is input, first parameters, output directory, second ones."""
    env = {"APP_BIN": "/a", "APP_IN_FILE": "/in", "APP_PARAMS1": "-x 1", "APP_PARAMS2": "'-y z'"}
    assert read(**env, TMP_OUTPUT_DIR="/o").command == ("/a", "/in", "-x", "1", "/o", "-y z")
    assert read(APP_IN_FILE="", TMP_OUTPUT_DIR="/o").command == ("/opt/simest", "/o")
    assert read(TMP_OUTPUT_DIR="/o").command == ("/opt/simest", "/opt/examples/example", "/o")


def test_empty_params_are_params():
    assert read(APP_BIN="/a", APP_PARAMS="").command == ("/a",)


@given(st.lists(ARGUMENTS, max_size=6))
@pytest.mark.cell("chance.parsers")
def test_quoted_arguments_come_back(arguments):
    """Whatever is quoted reaches the application unchanged."""
    import shlex

    assert read(APP_BIN="/a", APP_PARAMS=shlex.join(arguments)).command[1:] == tuple(arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("APP_PARAMS", "'open"),
        ("ARCHITRAVE_LAUNCHER", "srun"),
        ("ARCHITRAVE_SLOTS", "0"),
        ("ARCHITRAVE_SLOTS", "two"),
        ("ARCHITRAVE_SSH_PORT", "65536"),
        ("ARCHITRAVE_HEARTBEAT_SECONDS", "0"),
        ("ARCHITRAVE_HEARTBEAT_SECONDS", "nan"),
        ("ARCHITRAVE_JOIN_TIMEOUT_SECONDS", "inf"),
        ("ARCHITRAVE_GRACE_SECONDS", "-1"),
        ("ARCHITRAVE_LOG_FORMAT", "xml"),
        ("ARCHITRAVE_ROOT", "here"),
        ("S3_BUCKET", "http://x/y"),
        ("S3_BUCKET", "s3://"),
        ("S3_BUCKET", "s3://b/../c"),
        ("ARCHITRAVE_OUTPUT", "s3:///x"),
        ("AWS_BATCH_JOB_ATTEMPT", "0"),
        ("AWS_BATCH_JOB_NUM_NODES", "-3"),
    ],
)
def test_bad_value_is_named(name, value):
    """A value that can't be used is 78, and the message names the variable and the value."""
    with pytest.raises(AgentError) as caught:
        read(**{name: value})
    assert caught.value.code == 78
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)
    assert caught.value.hint


@given(st.sampled_from(sorted(settings.read({"EXEC_TYPE": "batch"}).__dataclass_fields__)), VALUES)
@pytest.mark.cell("chance.parsers")
def test_any_text_is_taken_or_refused(field, value):
    """No value of any variable gives anything but settings or a clear error."""
    for name in ("ARCHITRAVE_" + field.upper(), "ARCHITRAVE_" + field.upper() + "_SECONDS"):
        try:
            read(**{name: value})
        except AgentError as error:
            assert error.code in (64, 77, 78)


def test_places():
    """The bucket may have a prefix and a scheme; `<none>` and empty switch a step off."""
    one = read(S3_BUCKET="s3://b/p", S3_BATCH_PRIVATE_REL_PATH="<none>")
    assert (str(one.deps), one.private) == ("s3://b/p/batch/deps.tar.gz", None)
    assert str(one.output) == "s3://b/p/output"
    assert str(read(S3_BUCKET="b").private) == "s3://b/batch/private.7z"
    assert str(read().deps) == "s3://scar-architrave/batch/deps.tar.gz"
    assert read(S3_BATCH_DEPS_REL_PATH="").deps is None


def test_output_is_off_where_somebody_else_uploads():
    """Lambda mode and SCAR, which uploads TMP_OUTPUT_DIR itself, upload nothing by default."""
    assert settings.read({"EXEC_TYPE": "lambda"}).output is None
    assert read(TMP_INPUT_DIR="/tmp/in").output is None
    assert str(read(TMP_INPUT_DIR="/tmp/in", ARCHITRAVE_OUTPUT="s3://o").output) == "s3://o"
    assert read(ARCHITRAVE_OUTPUT="<none>").output is None


def test_defaults():
    batch, lambda_ = read(), settings.read({"EXEC_TYPE": "lambda"})
    assert (batch.output_dir, lambda_.output_dir) == ("/tmp/output", "/tmp")
    assert (batch.launch.workdir, lambda_.launch.workdir) == ("/tmp/output", "")
    assert (batch.network.join_timeout, batch.network.heartbeat) == (600, 2)
    assert batch.limits == settings.Limits(timeout=0, grace=15, hold=0)
    assert batch.network.key_name == "ssh_host_rsa_key"
    assert batch.network.ssh_port == (22 if os.geteuid() == 0 else 2222)
    assert batch.exit_code_file == "/tmp/batch-exit-code"


def test_secrets_stay_out():
    """Neither the application nor a printed settings value has a secret."""
    secrets = {name: "s3cr3t-value" for name in variables.HIDDEN if name != "PRIVATE_PASSWD_FILE"}
    one = read(**secrets, OTHER="x")
    assert "s3cr3t-value" not in repr(one)
    assert "s3cr3t-value" not in one.app_env.values()
    assert one.app_env["OTHER"] == "x"
    assert one.helper_env["AWS_SECRET_ACCESS_KEY"] == "s3cr3t-value"
    assert "PRIVATE_PASSWD" not in one.helper_env
    assert set(settings.secrets_of(one)) == {"s3cr3t-value"}


def test_password_sources(tmp_path):
    file = tmp_path / "password"
    file.write_text("from file\n")
    assert read(PRIVATE_PASSWD="<none>").password == ""
    assert read(PRIVATE_PASSWD="a b*").password == "a b*"
    assert read(PRIVATE_PASSWD_FILE=str(file), PRIVATE_PASSWD="x").password == "from file"
    with pytest.raises(AgentError) as caught:
        read(PRIVATE_PASSWD_FILE=str(tmp_path / "none"))
    assert caught.value.code == 77


def test_application_environment():
    """What is unset gets something sensible; lambda mode keeps ssh away from Open MPI."""
    env = settings.read({"EXEC_TYPE": "lambda"}).app_env
    assert env["OMPI_MCA_plm_rsh_agent"] == "/bin/false"
    assert env["HOME"] and env["USER"] and env["LANG"]
    assert read(HOME="/h", USER="u", LANG="de_DE").app_env["HOME"] == "/h"
    assert "OMPI_MCA_plm_rsh_agent" not in read().app_env


NODES = {
    "AWS_BATCH_JOB_ID": "0a-1#2",
    "AWS_BATCH_JOB_ATTEMPT": "2",
    "AWS_BATCH_JOB_NUM_NODES": "3",
    "AWS_BATCH_JOB_NODE_INDEX": "2",
    "AWS_BATCH_JOB_MAIN_NODE_INDEX": "1",
    "AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS": "10.0.0.1",
}


def test_topology():
    """A worker's job id loses its `#n`, so that all nodes of a job agree."""
    worker = read(**NODES).topology
    assert (worker.job, worker.attempt, worker.index, worker.count) == ("0a-1", 2, 2, 3)
    assert not worker.is_main and worker.main_address == "10.0.0.1"
    assert (worker.workers, worker.name(1), worker.name(2)) == ([0, 2], "main", "worker 2")
    assert read(**NODES | {"AWS_BATCH_JOB_NODE_INDEX": "1"}).topology.is_main


def test_absent_node_variables_mean_one_node():
    topology = read(AWS_BATCH_JOB_ID="j").topology
    assert (topology.count, topology.index, topology.is_main) == (1, 0, True)
    assert read().topology.job.startswith("local-")


@pytest.mark.parametrize(
    "change",
    [
        {"AWS_BATCH_JOB_NODE_INDEX": "3"},
        {"AWS_BATCH_JOB_NODE_INDEX": ""},
        {"AWS_BATCH_JOB_MAIN_NODE_INDEX": "9"},
        {"AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS": ""},
        {"AWS_BATCH_JOB_ID": ""},
        {"AWS_BATCH_JOB_ID": "../x"},
    ],
)
def test_bad_topology(change):
    with pytest.raises(AgentError) as caught:
        read(**NODES | change)
    assert caught.value.code == 78
    assert next(iter(change)) in str(caught.value)


def test_own_root():
    """With a root of its own an agent keeps everything below it."""
    one = read(ARCHITRAVE_ROOT="/r", APP_BIN="/opt/app")
    assert (one.output_dir, one.launch.workdir, one.command[0]) == (
        "/r/tmp/output",
        "/r/tmp/output",
        "/r/opt/app",
    )
    assert one.path("/opt") == "/r/opt"
    assert read(ARCHITRAVE_ROOT="/r", APP_BIN="/bin/sh").command[0] == "/bin/sh"


@pytest.mark.parametrize("password", ["a\nb", "a\rb", "a\udcff"])
def test_packing_and_jobs_refuse_the_same_passwords(password):
    """What can be packed can be unpacked."""
    with pytest.raises(AgentError) as packing:
        pack_password(None, {"PRIVATE_PASSWD": password})
    with pytest.raises(AgentError) as job:
        read(PRIVATE_PASSWD=password)
    assert packing.value.code == job.value.code == 78
    assert packing.value.cause == job.value.cause


@pytest.mark.parametrize(
    "name", ["S3_BUCKET", "ARCHITRAVE_OUTPUT", "AWS_BATCH_JOB_ID", "AWS_SECRET_ACCESS_KEY"]
)
def test_what_is_no_text_is_refused(name):
    """Bytes that are not UTF-8 are named before anything is fetched, and a secret isn't shown."""
    with pytest.raises(AgentError) as error:
        read(**{name: "v\udcff"})
    assert error.value.code == 78 and name in str(error.value)
    assert ("udcff" in str(error.value)) == (name != "AWS_SECRET_ACCESS_KEY")


def test_paths_may_be_any_bytes():
    assert read(ARCHITRAVE_WORKDIR="/tmp/\udcff").launch.workdir == "/tmp/\udcff"
