"""What stands in for the agent's parts where a test must turn time and answers itself."""

import heapq
import itertools
import select


class FakeLoop:
    """The timers and descriptors of the event loop, with a clock that only the test turns."""

    def __init__(self):
        self.now = 0.0
        self._timers = []
        self._order = itertools.count()
        self._watched = {}

    def clock(self):
        return self.now

    def every(self, seconds, action):
        handle = FakeTimer()

        def again():
            if not handle.cancelled:
                action()
                self._push(self.now + seconds, again)

        self._push(self.now + seconds, again)
        return handle

    def _push(self, when, action):
        heapq.heappush(self._timers, (when, next(self._order), action))

    def watch(self, fd, action, *, write=False):
        self._watched[fd] = (action, write)

    def unwatch(self, fd):
        self._watched.pop(fd, None)

    def deliver(self):
        """Call whoever has something to read, or room to write."""
        while ready := self._ready():
            for fd in ready:
                if fd in self._watched:
                    self._watched[fd][0]()

    def _ready(self):
        read = [fd for fd, (_, write) in self._watched.items() if not write]
        write = [fd for fd, (_, write) in self._watched.items() if write]
        readable, writable, _ = select.select(read, write, [], 0)
        return readable + writable

    def turn(self, seconds):
        """Let time pass, and everything happen in time."""
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            self.now = self._timers[0][0]
            self.deliver()
            heapq.heappop(self._timers)[2]()
        self.now = end

    def stop(self, seconds):
        """Let time pass while the process is stopped; what was due comes after, in one turn."""
        self.now += seconds
        self.deliver()
        due = [timer for timer in self._timers if timer[0] <= self.now]
        self._timers = [timer for timer in self._timers if timer[0] > self.now]
        for _, _, action in sorted(due):
            action()


class FakeTimer:
    cancelled = False

    def cancel(self):
        self.cancelled = True


class FakeHelper:
    """The helper that links a worker to the main node, as far as its agent can see."""

    def __init__(self, hear):
        self.hear = hear
        self.asked = []
        self.done = False

    def ask(self, order):
        if self.done:
            return False
        assert not self.asked, "one order at a time"
        self.asked.append(order)
        return True

    def close(self):
        self.done = True
