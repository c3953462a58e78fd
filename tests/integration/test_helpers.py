"""Helper processes: what they are asked arrives, however long it is."""

import subprocess
import sys

import pytest

COUNT = 'import json, sys\nprint(json.dumps({"result": {"length": len(sys.stdin.readline())}}))\n'
# A loop takes the signals of the process that it is in, so it has one of its own.
ASK = """
import os, sys
from agent.engine import helpers
from agent.engine.loop import Loop
from agent.engine.process import Children

helpers._SCRIPT = sys.argv[1]
loop = Loop(Children())
request = {"x": "x" * int(sys.argv[2])}
helper = helpers.Helper(loop, os.environ, "x")
helper.begin("x", request, lambda message: None)
loop.wait(lambda: helper.done, loop.clock() + 30)
print(helper.outcome()["length"])
helper.close()
"""


@pytest.mark.parametrize("size", [10, 5_000_000, 160_000_000])
def test_a_request_of_any_length(tmp_path, size):
    """The list of a hundred thousand results reaches the helper as a short request does."""
    (tmp_path / "count.py").write_text(COUNT)
    command = [sys.executable, "-c", ASK, tmp_path / "count.py", str(size)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{size + 17}\n", done.stderr


TALK = 'import json, sys\nprint(json.dumps({"result": {"x": "x" * 160_000_000}}))\n'
RECEIVE = ASK.replace('["length"]', '["x"].__len__()').replace("clock() + 30", "clock() + 20")


def test_an_answer_of_any_length(tmp_path):
    """What it takes grows with its length, not with the square: these took two minutes."""
    (tmp_path / "talk.py").write_text(TALK)
    command = [sys.executable, "-c", RECEIVE, tmp_path / "talk.py", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "160000000\n", done.stderr


LONG = """
import time
from agent.engine.loop import Loop
from agent.engine.process import Children

loop, beats, turns = Loop(Children()), [], 0
loop.every(0.02, lambda: beats.append(1))
end = time.monotonic() + 0.5
while time.monotonic() < end:
    loop.poll_events()
    turns += 1
print(len(beats), turns)
"""


def test_long_work_lets_the_loop_poll_events():
    """Heartbeats go on during it, and nothing is waited for when nothing is due."""
    done = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, timeout=60)
    beats, turns = map(int, done.stdout.split())
    assert 3 <= beats <= 25 and turns > 10 * beats, done.stderr
