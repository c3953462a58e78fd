"""The event loop: what is called again and again."""

import time

import pytest

from agent.engine.loop import OWN_FAULTS, Loop
from agent.engine.process import Children


def test_a_repeating_call_goes_on_after_a_bug():
    """The bug ends the wait, once; the next one is called in time all the same."""
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
