"""Each variable is declared once, and everything that names one reads that declaration."""

import pytest

from agent.core import settings, variables
from agent.core.errors import AgentError
from agent.core.variables import EVERY

KNOWN = {one.name for one in EVERY}
MODES = {
    "lambda": {"EXEC_TYPE": "lambda"},
    "batch": {"EXEC_TYPE": "batch"},
    "several nodes": {
        "AWS_BATCH_JOB_ID": "job",
        "AWS_BATCH_JOB_NUM_NODES": "2",
        "AWS_BATCH_JOB_NODE_INDEX": "1",
        "AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS": "10.0.0.1",
    },
}
# What the application, the AWS SDK and the platform's own programs are asked for.
OTHERS = {"LD_LIBRARY_PATH", "PATH"}


class Recording(dict):
    """An environment that records which names are read."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.asked = set()

    def get(self, name, default=None):
        self.asked.add(name)
        return super().get(name, default)

    def __contains__(self, name):
        self.asked.add(name)
        return super().__contains__(name)

    def keys(self):
        return self

    def __and__(self, names):
        self.asked |= names
        return names & set(self)


def asked_of(env):
    recording = Recording(env)
    settings.read(recording)
    return recording.asked


def test_the_settings_read_every_variable_and_no_other():
    asked = set().union(*(asked_of(env) for env in MODES.values()))
    platform = {name for name in asked if name.startswith(("AWS_BATCH_JOB_", "AWS_LAMBDA_"))}
    assert asked - platform - OTHERS == KNOWN


@pytest.mark.parametrize("one", EVERY, ids=lambda one: one.name)
def test_each_has_help_and_a_default_that_is_valid(one):
    assert one.help and one.help[0] != " " and not one.help.endswith(".")
    assert one.read({}) == one.default == one.read({one.name: ""})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ARCHITRAVE_SSH_PORT", "0"),
        ("ARCHITRAVE_SSH_PORT", "65536"),
        ("ARCHITRAVE_SSH_PORT", "ssh"),
        ("ARCHITRAVE_SLOTS", "-1"),
        ("ARCHITRAVE_SLOTS", "all"),
        ("ARCHITRAVE_LAUNCHER", "slurm"),
        ("ARCHITRAVE_JOIN_TIMEOUT_SECONDS", "0"),
        ("ARCHITRAVE_GRACE_SECONDS", "soon"),
        ("ARCHITRAVE_MPIRUN_ARGS", "'open"),
        ("ARCHITRAVE_LOG_LEVEL", "loud"),
    ],
)
def test_a_value_that_is_not_valid_is_named(name, value):
    with pytest.raises(AgentError) as raised:
        settings.read({"EXEC_TYPE": "batch", name: value})
    assert raised.value.code == 78
    assert name in str(raised.value) and value in str(raised.value) and raised.value.hint


def test_the_value_of_a_secret_is_in_no_error():
    with pytest.raises(AgentError) as raised:
        settings.read({"EXEC_TYPE": "batch", "PRIVATE_PASSWD": "s3cret\nline"})
    assert raised.value.code == 78 and "s3cret" not in str(raised.value) + raised.value.hint


def test_what_is_secret_is_hidden_from_the_application():
    assert set(variables.SECRET) <= set(variables.HIDDEN)
    env = {name: "value" for name in variables.HIDDEN if name != "PRIVATE_PASSWD_FILE"}
    assert not settings.read({"EXEC_TYPE": "batch", **env}).app_env.keys() & env.keys()


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\r", b"\nmore"])
def test_a_password_from_a_file_with_any_line_end(tmp_path, start, end):
    path = tmp_path / "password"
    path.write_bytes(start + "pässword ".encode() + end)
    env = {"EXEC_TYPE": "batch", "PRIVATE_PASSWD_FILE": str(path)}
    assert settings.read(env).password == "pässword "
