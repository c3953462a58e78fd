"""Give a node results that it never had, so that their number costs no disk; time its loop.

SYNTHETIC_RESULTS: how many; SYNTHETIC_AWAY: the file for the longest time between two turns of the
loop, in seconds, without the time in which it waited for a processor: 66 agents share those of one
machine. All else of the agent is what it is.
"""

import os

try:
    from agent.engine import loop
    from agent.job import upload
except ImportError:  # another program's interpreter
    loop = None


def begin(self):
    pass


def finish(self):
    count = int(os.environ["SYNTHETIC_RESULTS"])
    with open(self.stored_list, "w") as file:
        for number in range(count):
            file.write(f'{{"name": "results/of/the/node/{number:07d}.dat", "size": 1, ')
            file.write(f'"sha256": "{"0" * 64}"}}\n')
            self._output_dir.poll_events()
    return {"count": count, "files": [], "lost": 0, "failed": []}


def seconds(clock):
    """Return the time without that in which this thread could run and had no processor."""
    try:
        with open("/proc/thread-self/schedstat") as file:
            return clock() - int(file.read().split()[1]) / 1e9
    except OSError:
        return clock()


def watched(init):
    def init_(self, *arguments, **named):
        init(self, *arguments, **named)
        last, worst = seconds(self.clock), 0.0

        def look():
            nonlocal last, worst
            now = seconds(self.clock)
            if now - last > worst:
                worst = now - last
                with open(os.environ["SYNTHETIC_AWAY"], "w") as file:
                    file.write(str(worst))
            last = now

        self.every(0.02, look)

    return init_


if loop is not None and "SYNTHETIC_RESULTS" in os.environ:
    upload.Upload.begin = begin
    upload.Upload.finish = finish
if loop is not None and "SYNTHETIC_AWAY" in os.environ:
    loop.Loop.__init__ = watched(loop.Loop.__init__)
