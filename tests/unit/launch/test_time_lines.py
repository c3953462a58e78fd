"""The time lines at the end of time.log are bash's."""

import subprocess

import pytest

from agent.launch.output import time_lines


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0m0.000s"), (1.2344, "0m1.234s"), (59.9996, "1m0.000s"), (3725.5, "62m5.500s")],
)
def test_time_lines(seconds, text):
    lines = time_lines(seconds, 0, 0).decode().splitlines()
    assert lines == ["", f"real\t{text}", "user\t0m0.000s", "sys\t0m0.000s"]


def test_time_lines_are_bash_s():
    """The lines have the form of bash's own `time`."""
    done = subprocess.run(["bash", "-c", "time true"], capture_output=True, text=True, check=True)
    shape = [line.split("\t")[0] for line in done.stderr.splitlines()]
    assert [line.split("\t")[0] for line in time_lines(1, 2, 3).decode().splitlines()] == shape
