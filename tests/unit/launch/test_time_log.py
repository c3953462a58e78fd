"""The thread that keeps the application's output."""

import os
import threading

import pytest

from agent.engine.console import Outlet
from agent.launch.time_log import TimeLog


@pytest.mark.parametrize("unnamed", [True, False])
def test_the_log_gets_its_name_although_the_thread_fails(tmp_path, monkeypatch, unnamed):
    """Also where a file system has no files without a name: nothing hidden stays behind."""
    if not unnamed:
        monkeypatch.setattr(os, "O_TMPFILE", 0)

    def fail(self):
        raise ZeroDivisionError

    stopped = threading.Event()
    console = Outlet(os.open(os.devnull, os.O_WRONLY))
    log = TimeLog(str(tmp_path / "time.log"), console)
    monkeypatch.setattr(TimeLog, "_take", fail)
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    log.start(reader, lambda: stopped.set() if log.stopped else None)
    os.write(writer, b"x")
    assert stopped.wait(20)
    assert isinstance(log.error, ZeroDivisionError) and log.at_eof
    assert [path.name for path in tmp_path.iterdir()] == ["time.log"]
    os.close(writer)
    log.release()
    console.close()
