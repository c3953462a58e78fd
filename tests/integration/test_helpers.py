"""Helper processes: what they are asked arrives, however long it is."""

import os

import pytest

from agent.helpers import Helper
from agent.loop import Loop
from agent.process import Children

pytestmark = pytest.mark.timeout(60)

_TASK = {"nodes": [], "path": "x", "seconds": 5, "port": 1, "user": "", "directory": "/"}


def ask(size):
    """Return the exit code of an agent's process whose helper is asked something so long."""
    # A loop takes the signals of the process that it is in.
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        loop = Loop(Children())
        request = _TASK | {"timeout": 5, "data": "x" * size}
        helper = Helper(loop, os.environ, "tell", request, lambda message: None)
        loop.wait(lambda: helper.done, loop.clock() + 30)
        code = 0 if helper.outcome() == {"untold": {}} else 2
        helper.close()
    finally:
        os._exit(code)


@pytest.mark.parametrize("size", [10, 5_000_000])
def test_a_request_of_any_length(size):
    """The list of a hundred thousand results reaches the helper as a short request does."""
    assert ask(size) == 0
