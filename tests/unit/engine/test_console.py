"""The agent's own log on its way to a console that may be slow."""

import json
import os

from agent.engine.console import LineQueue, Outlet
from tests.support.fakes import FakeLoop


def test_lines_that_are_dropped_are_counted():
    """A console without a reader costs a bounded memory; what it missed is logged when it reads."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    loop = FakeLoop()
    queue = LineQueue(Outlet(writer), loop)
    os.close(writer)
    line = b"x" * 999 + b"\n"
    for _ in range(4000):
        queue.put(line)
    text = b""
    while not queue.empty:
        text += os.read(reader, 1 << 20)
        loop.deliver()
    queue.put(b"the last one\n")
    text += os.read(reader, 1 << 20)
    *kept, note, last = text.splitlines(keepends=True)
    assert set(kept) == {line} and last == b"the last one\n"
    assert json.loads(note)["count"] == 4000 - len(kept)
    assert len(kept) * len(line) < 3 << 20
    os.close(reader)


def test_the_note_has_the_log_s_own_format():
    """On a console it is not JSON."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    loop = FakeLoop()
    queue = LineQueue(Outlet(writer), loop, console=True)
    os.close(writer)
    for _ in range(4000):
        queue.put(b"x" * 999 + b"\n")
    text = b""
    while not queue.empty:
        text += os.read(reader, 1 << 20)
        loop.deliver()
    queue.put(b"the last one\n")
    text += os.read(reader, 1 << 20)
    kept = text.count(b"x" * 999)
    note = text.splitlines()[-2]
    assert note == f"[warning] {4000 - kept} log lines dropped".encode()
    os.close(reader)
