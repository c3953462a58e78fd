"""Sample processor and memory use of the job's processes with psutil, once a second."""

from __future__ import annotations

import contextlib
from array import array
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

SAMPLE_SECONDS = 1.0
# Two hours at a second each fold into half of it: memory stays flat however long the run is.
_MOST_SAMPLES = 1800


class Sampler:
    """Curves of one node: seconds since the start, processors in use, resident bytes.

    `own` are the agent's other children, which are not the job's; `seen` are the job's processes
    that the last sample has found.
    """

    def __init__(self, own: set[int], start: float) -> None:
        import psutil

        self._psutil = psutil
        self._agent = psutil.Process()
        self._own = own
        self._start = start
        self._every = 1
        self._skipped = 0
        self._last = start
        self.seen: list[psutil.Process] = []
        self._cpu: dict[tuple[int, float], float] = {}
        self._times = array("d")
        self._processors = array("d")
        self._resident = array("q")
        self.cpu_seconds = 0.0
        self.peak_processors = 0.0
        self.peak_resident = 0
        self.peak_processes = 0

    def _processes(self) -> list[psutil.Process]:
        """Return every descendant of the agent that is the job's, whoever started it."""
        with contextlib.suppress(self._psutil.Error, OSError):
            found = self._agent.children(recursive=True)
            return [process for process in found if process.pid not in self._own]
        return []

    def sample(self, now: float) -> None:
        """Take one sample; `now` is in seconds of the clock that `start` was read from."""
        cpu: dict[tuple[int, float], float] = {}
        resident = 0
        used = 0.0
        self.seen = self._processes()
        for process in self.seen:
            with contextlib.suppress(self._psutil.Error, OSError), process.oneshot():
                if process.name().startswith("ssh"):  # sshd's sessions, mpirun's clients
                    continue
                times = process.cpu_times()
                key = (process.pid, process.create_time())
                cpu[key] = times.user + times.system
                used += max(0.0, cpu[key] - self._cpu.get(key, 0.0))
                resident += process.memory_info().rss
        elapsed = max(now - self._last, 1e-3)
        self._cpu, self._last = cpu, now
        self.cpu_seconds += used
        self.peak_processors = max(self.peak_processors, used / elapsed)
        self.peak_resident = max(self.peak_resident, resident)
        self.peak_processes = max(self.peak_processes, len(cpu))
        self._skipped += 1
        if self._skipped >= self._every:
            self._skipped = 0
            self._keep(now - self._start, used / elapsed, resident)

    def _keep(self, at: float, processors: float, resident: int) -> None:
        self._times.append(round(at, 3))
        self._processors.append(round(processors, 3))
        self._resident.append(resident)
        if len(self._times) >= _MOST_SAMPLES:
            self._times = self._times[::2]
            self._processors = self._processors[::2]
            self._resident = self._resident[::2]
            self._every *= 2

    def curves(self) -> dict[str, Any]:
        """Return the samples: `seconds`, `processors` (1.0 is one busy core), `resident_bytes`."""
        return {
            "seconds": list(self._times),
            "processors": list(self._processors),
            "resident_bytes": list(self._resident),
        }

    def peaks(self) -> dict[str, Any]:
        """Return the highest values seen and the processor seconds used."""
        return {
            "cpu_seconds": round(self.cpu_seconds, 3),
            "processors": round(self.peak_processors, 3),
            "resident_bytes": self.peak_resident,
            "processes": self.peak_processes,
        }
