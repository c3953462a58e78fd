"""Replacements of the agent's parts where a test must control time and answers itself."""

import heapq
import itertools
import math
import select
import types

from agent.core.errors import BUG, HelperDied


class FakeLoop:
    """The timers and descriptors of the event loop, with a clock that only the test turns."""

    def __init__(self):
        self.now = 0.0
        self._timers = []
        self._order = itertools.count()
        self._watched = {}
        self.children = FakeChildren()
        self.sender = ""
        self.hurried_since = math.inf

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

    def call_at(self, when, action):
        handle = FakeTimer()
        self._push(when, lambda: handle.cancelled or action())
        return handle

    def poll_events(self):
        self.deliver()

    def wait(self, done, deadline=None):
        """Let time pass from one timer to the next, until `done()` or the deadline."""
        while not done():
            due = min((when for when, _, _ in self._timers), default=math.inf)
            end = math.inf if deadline is None else deadline
            assert min(due, end) < math.inf, "nothing can end this wait"
            if due > end:
                self.now = max(self.now, end)
                return bool(done())
            self.turn(max(due - self.now, 0.0))
        return True

    def _push(self, when, action):
        heapq.heappush(self._timers, (when, next(self._order), action))

    def watch(self, fd, action, *, write=False):
        self._watched[fd] = (action, write)

    def unwatch(self, fd):
        self._watched.pop(fd, None)

    def deliver(self):
        """Call what has something to read, or room to write."""
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


class FakeChildren:
    """No child runs, and none is left behind."""

    running = ()

    def kill_orphans(self, spared=()):
        return []


class FakeTimer:
    cancelled = False

    def cancel(self):
        self.cancelled = True


class FakeHelper:
    """The helper by which a worker joins, as far as its agent can see."""

    def __init__(self, on_message):
        self.on_message = on_message
        self.asked = []
        self.result = None
        self.done = False

    def ask(self, order):
        self.asked.append(order)
        return not self.done

    def outcome(self):
        if self.result is None:
            raise HelperDied("run the helper join", "killed by signal 9", code=BUG)
        return self.result

    def close(self):
        self.done = True


class FakeHeartbeatLink:
    """A worker's link to the main node, which does what the test lets it do."""

    def __init__(self, loop, on_message):
        self.on_message = on_message
        self.seen = loop.clock()
        self.asked = []
        self.open = self.done = False
        self.cause = ""
        self._loop = loop

    @property
    def busy(self):
        return bool(self.asked) and not self.done

    def ask(self, order):
        if self.done or self.asked:
            return False
        self.asked.append(order)
        self.seen = self._loop.clock()
        return True

    def close(self, cause=""):
        self.done = True
        self.cause = self.cause or cause


class FakeWorkload:
    """What runs on a node, as its supervisor sees it; it notes what it is asked."""

    def __init__(self):
        self.stopping = False
        self.stops = []
        self.forwarded = []
        self.finished = False

    def stop(self, reason, number=15, max_grace=math.inf):
        self.stopping = True
        self.stops.append((reason, number, max_grace))

    def forward(self, number):
        self.forwarded.append(number)

    def finish(self):
        self.finished = True


class FakeTask:
    """A helper process that does what the test says when it is begun, a second later.

    `ends` is a result (a dict), an AgentError, or None: it dies.
    """

    def __init__(self, loop, ends, task):
        self.task = task
        self.stderr_tail = ""
        self.result = self.error = None
        self.done = False
        self.closed = False
        self.asked = []
        self.child = types.SimpleNamespace(pid=next(_pids), running=False)
        self._loop = loop
        self._ends = ends

    def begin(self, task, request, on_message):
        self.request, self.on_message = request, on_message
        self._loop.call_at(self._loop.now + 1, self._end)

    def _end(self):
        self.done = True

    def ask(self, request):
        self.asked.append(request)
        return not self.done

    def outcome(self):
        if isinstance(self._ends, dict):
            return self._ends
        raise self._ends or HelperDied("run the helper", "killed by signal 9", code=BUG)

    def close(self):
        self.closed = True


_pids = itertools.count(1000)
