"""The event loop: signals, children, descriptors and deadlines."""

from __future__ import annotations

import heapq
import itertools
import os
import select
import time

from agent.engine.process import Child, Children

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Collection
else:
    import _signal as signal  # the public one imports enum, a fifth of a start

_NEVER = float("inf")
_HURRIED_SECONDS = 1.0
_UNCATCHABLE = {signal.SIGKILL, signal.SIGSTOP}
# The first two come from writes of our own, which report the error. After a handler for the others
# a faulting instruction would run again, forever.
OWN_FAULTS = {
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
}


class Timer:
    """A call that is due at `when`, in seconds of the monotonic clock."""

    __slots__ = ("action", "cancelled", "when")

    def __init__(self, when: float, action: Callable[[], None]) -> None:
        self.when = when
        self.action = action
        self.cancelled = False

    def cancel(self) -> None:
        """Cancel the call and drop its references."""
        self.cancelled = True
        self.action = _nothing


def _nothing() -> None:
    pass


class Loop:
    """The one event loop of the process.

    `on_signal(number)` is called for each signal but SIGCHLD; `wait` runs callbacks until its
    condition holds. Callbacks never block, and raise only to abort the current wait. Signals
    `not_ours` keep their disposition: a program that only forwards signals takes all of them, one
    that writes does not.
    """

    def __init__(self, children: Children, *, not_ours: set[signal.Signals] | None = None) -> None:
        self.children = children
        self.on_signal: Callable[[int], object] = lambda number: None
        self.on_child: Callable[[Child], None] = lambda child: None
        # The sender of the signal that is being handled, empty if it is not known.
        self.sender = ""
        # When the first signal to stop arrived: from then on nothing that hangs may be waited for.
        self.hurried_since = _NEVER
        self.clock = time.monotonic
        # Not selectors, which imports more than all of this module.
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], object]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._calls: list[Callable[[], None]] = []
        self._wakeup, self._alarm = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        children.wait_for = self._wait_for
        self.watch(self._wakeup, self._signals)
        self._take_signals(_UNCATCHABLE | (not_ours or set()))

    def watch(self, fd: int, action: Callable[[], object], *, write: bool = False) -> None:
        """Call `action` whenever `fd` can be read (or written)."""
        self._epoll.register(fd, select.EPOLLOUT if write else select.EPOLLIN)
        self._watched[fd] = action

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor."""
        if self._watched.pop(fd, None) is None:
            return
        try:
            self._epoll.unregister(fd)
        except OSError:
            pass  # it was closed first

    def call_at(self, when: float, action: Callable[[], None]) -> Timer:
        """Call `action` once, at `when` of the monotonic clock."""
        timer = Timer(when, action)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_soon(self, action: Callable[[], None]) -> None:
        """Call `action` in the loop: the one method that another thread may call."""
        self._calls.append(action)
        try:
            os.write(self._alarm, bytes([signal.SIGCHLD]))  # costs a look for children
        except BlockingIOError:
            pass  # full: the loop wakes up anyway

    def every(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Call `action` repeatedly, `seconds` after each call has returned, until cancelled.

        One that raises is called again: a job that it aborts still needs its heartbeats.
        """
        repeating = Timer(0, action)

        def again() -> None:
            if not repeating.cancelled:
                try:
                    action()
                finally:
                    self.call_at(self.clock() + seconds, again)

        self.call_at(self.clock() + seconds, again)
        return repeating

    def wait(self, done: Callable[[], object], deadline: float | None = None) -> bool:
        """Run callbacks until `done()` holds; return whether it did before the deadline."""
        while not done():
            now = self.clock()
            if deadline is not None and now >= deadline:
                return False
            self._turn(now, deadline)
        return True

    def _wait_for(self, fd: int, seconds: float) -> bool:
        """Serve events until a descriptor can be read; return whether it could in time."""
        ready: list[int] = []
        start = self.clock()

        def over() -> bool:
            hurried_until = max(start, self.hurried_since) + _HURRIED_SECONDS
            return bool(ready) or self.clock() >= min(start + seconds, hurried_until)

        self.watch(fd, lambda: ready.append(fd))
        look = self.every(_HURRIED_SECONDS / 2, _nothing)
        try:
            self.wait(over, start + seconds)
            return bool(ready)
        finally:
            look.cancel()
            self.unwatch(fd)

    def poll_events(self) -> None:
        """Run what is due, during long work, without waiting."""
        now = self.clock()
        self._turn(now, now)

    def _turn(self, now: float, deadline: float | None) -> None:
        """Wait once. Descriptors go before timers: after a stop of the whole process, what has
        arrived meanwhile must count before a node is called late.
        """
        due = [when for when in (deadline, self._next_due()) if when not in (None, _NEVER)]
        ready = self._epoll.poll(max(0.0, min(due) - now) if due else None)
        for fd, _ in ready:
            if fd in self._watched:
                self._call(fd)
        now = self.clock()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                timer.action()

    def _call(self, fd: int) -> None:
        """Run a descriptor's callback. One that has a bug must not repeat it forever: what follows
        a bug waits here as well. Signals are always handled.
        """
        try:
            self._watched[fd]()
        except Exception:
            if fd != self._wakeup:
                self.unwatch(fd)
            raise

    def _next_due(self) -> float | None:
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def name_senders(self, numbers: Collection[int]) -> None:
        """From now on receive these signals through signalfd, with their senders."""
        from agent.engine import signal_sender  # ctypes: not for a program that only forwards

        fd = signal_sender.open_descriptor(numbers)
        if fd < 0:
            return

        def read() -> None:
            for number, self.sender in signal_sender.read(fd):
                self.on_signal(number)
                self.sender = ""

        self.watch(fd, read)

    def _take_signals(self, not_ours: set[signal.Signals]) -> None:
        signal.set_wakeup_fd(self._alarm, warn_on_full_buffer=False)
        for number in signal.valid_signals() - not_ours:
            try:
                signal.signal(number, lambda *_: None)
            except (OSError, ValueError):
                continue  # the C library keeps two real-time signals for itself
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())

    def _signals(self) -> None:
        numbers = os.read(self._wakeup, 4096)
        # A full pipe may have lost a SIGCHLD among others, so children are looked for each time.
        for child in self.children.reap():
            self.on_child(child)
        while self._calls:
            self._calls.pop(0)()
        for number in numbers:
            if number != signal.SIGCHLD:
                self.on_signal(number)
