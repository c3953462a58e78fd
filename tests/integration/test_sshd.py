"""Keep sshd running: restarted when it dies, an error when it can't be started."""

import os
import time

import pytest

from agent.core.deadlines import STOP_SECONDS
from agent.engine.log import Log
from agent.engine.loop import OWN_FAULTS, Loop
from agent.engine.process import Children
from agent.multinode import sshd as sshd_


@pytest.fixture
def loop():
    return Loop(Children(), not_ours=OWN_FAULTS)


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_one_that_cannot_be_started_again_is_given_up(loop, tmp_path, monkeypatch):
    """A bounded number of tries, of which each gives back what it has opened."""
    program = tmp_path / "sshd"
    program.write_text("#!/bin/sh\necho 'Server listening on' >&2\nread line\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sshd_, "find_sshd", lambda: str(program))
    monkeypatch.setattr(sshd_, "_BACKOFF", 0.01)
    failures = []
    sshd = sshd_.Sshd(loop, Log(lambda line: None), "config", {}, set(), failures.append)
    loop.on_child = lambda child: sshd.child_exited() if child is sshd.child else None
    program.unlink()
    before = descriptors()
    assert loop.wait(lambda: failures, time.monotonic() + STOP_SECONDS)
    loop.wait(lambda: False, time.monotonic() + 0.5)
    assert len(failures) == 1 and failures[0].code == 71
    assert descriptors() <= before
    sshd.close()
