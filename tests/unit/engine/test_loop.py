"""The event loop: repeated calls."""

import subprocess
import sys
import time

import pytest

from agent.engine.loop import OWN_FAULTS, Loop
from agent.engine.process import Children


def test_a_repeating_call_goes_on_after_a_bug():
    """The bug aborts the wait, once; the next call is in time nevertheless."""
    loop = Loop(Children(), not_ours=OWN_FAULTS)
    calls = []

    def beat():
        calls.append(loop.clock())
        if len(calls) == 1:
            raise ZeroDivisionError

    timer = loop.every(0.01, beat)
    with pytest.raises(ZeroDivisionError):
        loop.wait(lambda: False, time.monotonic() + 5)
    assert loop.wait(lambda: len(calls) > 2, time.monotonic() + 5)
    timer.cancel()


SLOW = """
import os, sys, time
from agent.engine import process
from agent.engine.loop import Loop
from agent.engine.process import Children

real = os.execvpe

def execvpe(*arguments):  # a file system that answers late, or never
    time.sleep(float(sys.argv[1]))
    real(*arguments)

os.execvpe, process._EXEC_SECONDS = execvpe, 1.0
loop, beats = Loop(Children()), []
loop.every(0.05, lambda: beats.append(1))
try:
    child = loop.children.spawn(["true"], os.environ, cwd="/", serve_events=True)
    loop.wait(lambda: not child.running, loop.clock() + 5)
    print("code", child.code, len(beats))
except Exception as error:
    print("error", error.code, len(beats))
"""


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, "code 0"), (0.5, "code 0"), (60, "error 75")]
)
def test_an_exec_that_takes_long_does_not_stop_the_loop(seconds, expected):
    done = subprocess.run(
        [sys.executable, "-c", SLOW, str(seconds)], capture_output=True, text=True, timeout=30
    )
    *found, beats = done.stdout.split()
    assert " ".join(found) == expected, done.stderr
    assert int(beats) >= (2 if seconds else 0)


SENDER = """
import os, signal, subprocess
from agent.engine.loop import Loop
from agent.engine.process import Children

loop, found = Loop(Children()), []
loop.on_signal = lambda number: found.append((number, loop.sender))
loop.name_senders([signal.SIGTERM, signal.SIGINT])
child = subprocess.Popen(["sh", "-c", f"kill -TERM {os.getpid()}; exec sleep 1"])
loop.wait(lambda: found, loop.clock() + 5)
os.kill(os.getpid(), signal.SIGUSR1)
loop.wait(lambda: len(found) > 1, loop.clock() + 5)
(number, sender), other = found
print(number == signal.SIGTERM and f" (pid {child.pid})" in sender, other[1] == "", found)
blocked = loop.children.spawn(["sh", "-c", "kill -TERM $$; exit 3"], os.environ, cwd="/")
loop.wait(lambda: not blocked.running, loop.clock() + 5)
print(blocked.code)
"""


def test_the_sender_of_a_signal_is_known():
    """Of those that end a job; and no program inherits that they are blocked."""
    done = subprocess.run(
        [sys.executable, "-c", SENDER], capture_output=True, text=True, timeout=30
    )
    assert done.stdout.startswith("True True"), done.stdout + done.stderr
    assert done.stdout.split()[-1] == "143"
