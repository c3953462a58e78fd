"""Make Ctrl-C and SIGTERM stop a job and clean up."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """What the signals do at the moment.

    Before `on_first` is set a signal unwinds the program at once; then the first one calls
    `on_first` and the second one unwinds. Unwinding isn't interrupted again: it takes bounded
    time, and a partial one would leave containers behind.
    """

    def __init__(self) -> None:
        self.on_first: Callable[[str], None] | None = None

    def handle(self, number: int, _: FrameType | None) -> None:
        """Act on a signal."""
        action, self.on_first = self.on_first, None
        if action is not None:
            action(signal.Signals(number).name)
            return
        self.ignore()
        raise SystemExit(128 + number)

    def ignore(self) -> None:
        """Let the cleanup finish."""
        for number in _NUMBERS:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Handle the terminating signals inside the block."""
    state = Interrupts()
    before = [signal.signal(number, state.handle) for number in _NUMBERS]
    try:
        yield state
    finally:
        for number, handler in zip(_NUMBERS, before, strict=True):
            signal.signal(number, handler)
