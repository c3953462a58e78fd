"""Helper processes: what they are asked arrives, however long it is."""

import os

import pytest

from agent import helpers
from agent.loop import Loop
from agent.process import Children

pytestmark = pytest.mark.timeout(60)

COUNT = 'import json, sys\nprint(json.dumps({"result": {"length": len(sys.stdin.readline())}}))\n'


def ask(size):
    """Return the exit code of a process whose helper is asked something so long: 0 if it came."""
    # A loop takes the signals of the process that it is in.
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        loop = Loop(Children())
        helper = helpers.Helper(loop, os.environ, "x", {"x": "x" * size}, lambda message: None)
        loop.wait(lambda: helper.done, loop.clock() + 30)
        code = 0 if helper.outcome()["length"] == size + len('{"x": ""}\n') else 2
        helper.close()
    finally:
        os._exit(code)


@pytest.mark.parametrize("size", [10, 5_000_000])
def test_a_request_of_any_length(tmp_path, monkeypatch, size):
    """The list of a hundred thousand results reaches the helper as a short request does."""
    (tmp_path / "count.py").write_text(COUNT)
    monkeypatch.setattr(helpers, "_SCRIPT", str(tmp_path / "count.py"))
    assert ask(size) == 0
