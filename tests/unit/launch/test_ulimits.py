"""The application's resource limits: what may be given, and what may be set here."""

import os
import resource
import subprocess
import sys

import pytest

from agent.core import settings
from agent.core.errors import BAD_SETTINGS, AgentError
from agent.launch import ulimits

BASE = {"EXEC_TYPE": "batch"}


def parse(given):
    return settings.read(BASE | {"ARCHITRAVE_ULIMITS": given}).launch.ulimits


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        ("", ()),
        ("stack=unlimited", (("stack", -1, -1),)),
        ("core=0  nofile=1024:65536", (("core", 0, 0), ("nofile", 1024, 65536))),
        ("memlock=-1:-1", (("memlock", -1, -1),)),
        ("cpu=60:unlimited", (("cpu", 60, -1),)),
    ],
)
def test_forms(given, parsed):
    assert parse(given) == parsed


@pytest.mark.parametrize(
    "given",
    [
        *("stack", "stack=", "stack=8M", "stak=1", "STACK=1", "=1", "infinity=1", "core=0 core=1"),
        *("nofile=2:1", "nofile=unlimited:1", "nofile=1:2:3", "nofile=-2", f"cpu={1 << 63}"),
    ],
)
def test_bad_value_is_named(given):
    with pytest.raises(AgentError) as caught:
        parse(given)
    assert caught.value.code == BAD_SETTINGS
    assert "ARCHITRAVE_ULIMITS" in str(caught.value)


def test_every_limit_of_this_system_can_be_named():
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    given = " ".join(f"{name[7:].lower()}=1" for name in names if name != "RLIMIT_OFILE")
    limits = ulimits.rlimits(parse(given))
    assert {number for number, _, _ in limits} == {getattr(resource, name) for name in names}


def test_the_check_changes_nothing():
    before = [resource.getrlimit(number) for number in range(resource.RLIMIT_STACK + 1)]
    ulimits.check(parse("stack=unlimited core=0 nofile=64 fsize=unlimited"))
    assert [resource.getrlimit(number) for number in range(len(before))] == before


UNPRIVILEGED = """
import os, resource, sys
from agent.launch import ulimits
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
ulimits.check([("nofile", 32, 64)])
try:
    ulimits.check([("nofile", 64, 128)])
except Exception as error:
    print(error.code, "64" in str(error), "--ulimit nofile=128" in error.hint)
"""


def test_a_hard_limit_that_cannot_be_raised_is_named():
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", UNPRIVILEGED]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30)
    assert done.stdout == f"{BAD_SETTINGS} True True\n", done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may raise any limit")
def test_root_may_not_open_more_files_than_the_kernel_allows():
    with pytest.raises(AgentError):
        ulimits.check([("nofile", 1, 1 << 40)])
