"""Sample what the job's processes and the node's network do, with psutil, once a second."""

from __future__ import annotations

import contextlib
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

SAMPLE_SECONDS = 1.0
# Ten minutes at a second each fold into half of it: memory, and what hundreds of nodes send to the
# main one, stay flat however long the run is. A page has no more points to show.
_MAX_SAMPLES = 600
_RATES = (
    "processors",
    "read_bytes_per_second",
    "written_bytes_per_second",
    "received_bytes_per_second",
    "sent_bytes_per_second",
)
_Key = tuple[int, float]


@dataclass(frozen=True)
class _Disk:
    """What one process has read and written so far, and which process waits for it."""

    parent: int
    read: int
    written: int


class Sampler:
    """Curves of one node: processors in use, resident bytes, disk and network.

    `own` are the agent's other children, which are not the job's; `start` is an instant of the
    clock that `sample` is given; `seen` are the job's processes that the last sample has found.
    """

    def __init__(self, own: set[int], start: float) -> None:
        import psutil

        self._psutil = psutil
        self._agent = psutil.Process()
        self._own = own
        self._start = start
        self._last = start
        self.seen: list[psutil.Process] = []
        self._cpu: dict[_Key, float] = {}
        self._disk: dict[_Key, _Disk] = {}
        # Bytes read and written that the next sample finds once more, as negative numbers: those
        # of a process that exited between the reading of its parent and its own.
        self._owed = (0, 0)
        self._network = self._network_bytes()  # what was used before psutil was loaded isn't known
        # Since the last sample that was kept: seconds, the highest memory, sums of what is a rate.
        self._kept_at = start
        self._every = 1
        self._skipped = 0
        self._highest = 0
        self._sums = [0.0] * len(_RATES)
        self._times = array("d")
        self._resident = array("q")
        self._rates = [array("d") for _ in _RATES]
        self._totals = [0.0] * len(_RATES)
        self._peaks = [0.0] * len(_RATES)
        self.peak_resident = 0
        self.peak_processes = 0

    def _processes(self) -> list[psutil.Process]:
        """Return every descendant of the agent that is the job's, whatever started it."""
        with contextlib.suppress(self._psutil.Error, OSError):
            found = self._agent.children(recursive=True)
            return [process for process in found if process.pid not in self._own]
        return []

    def _network_bytes(self) -> tuple[int, int]:
        """Return what all interfaces but lo have received and sent, in this network namespace."""
        with contextlib.suppress(self._psutil.Error, OSError):
            found = self._psutil.net_io_counters(pernic=True, nowrap=False)
            others = [one for name, one in found.items() if name != "lo"]
            return sum(one.bytes_recv for one in others), sum(one.bytes_sent for one in others)
        return 0, 0

    def _disk_of(self, process: psutil.Process) -> _Disk | None:
        # Not every kernel counts, and a process may have made itself unreadable.
        with contextlib.suppress(self._psutil.Error, OSError, RuntimeError, ValueError):
            counted = process.io_counters()
            return _Disk(process.ppid(), counted.read_bytes, counted.write_bytes)
        return None

    def sample(self, now: float) -> None:
        """Take one sample; `now` is in seconds of the clock that `start` was read from."""
        cpu: dict[_Key, float] = {}
        disk: dict[_Key, _Disk] = {}
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
                if (counted := self._disk_of(process)) is not None:
                    disk[key] = counted
        moved = _moved(self._disk, disk)
        read, written = (max(0, sum(pair)) for pair in zip(moved, self._owed, strict=True))
        self._owed = min(0, moved[0]), min(0, moved[1])
        network = self._network_bytes()
        received, sent = (
            max(0, later - earlier) for later, earlier in zip(network, self._network, strict=True)
        )
        elapsed = max(now - self._last, 1e-3)
        self._cpu, self._disk, self._network, self._last = cpu, disk, network, now
        self.peak_resident = max(self.peak_resident, resident)
        self.peak_processes = max(self.peak_processes, len(cpu))
        self._add(elapsed, (used, read, written, received, sent))
        self._highest = max(self._highest, resident)
        self._skipped += 1
        if self._skipped >= self._every:
            self._keep(now)

    def _add(self, elapsed: float, amounts: tuple[float, ...]) -> None:
        for index, amount in enumerate(amounts):
            self._sums[index] += amount
            self._totals[index] += amount
            self._peaks[index] = max(self._peaks[index], amount / elapsed)

    def _keep(self, now: float) -> None:
        """Keep a sample: means since the last one that was kept, and the highest memory."""
        elapsed = max(now - self._kept_at, 1e-3)
        self._times.append(round(now - self._start, 3))
        self._resident.append(self._highest)
        for index, (rates, total) in enumerate(zip(self._rates, self._sums, strict=True)):
            rates.append(round(total / elapsed, 0 if index else 3))
        self._kept_at, self._skipped, self._highest = now, 0, 0
        self._sums = [0.0] * len(_RATES)
        if len(self._times) >= _MAX_SAMPLES:
            self._fold()

    def _fold(self) -> None:
        """Make one sample of every two."""
        pairs = range(0, len(self._times) - 1, 2)
        self._resident = array("q", (max(self._resident[i : i + 2]) for i in pairs))
        self._rates = [
            array("d", (round((rates[i] + rates[i + 1]) / 2, 0 if index else 3) for i in pairs))
            for index, rates in enumerate(self._rates)
        ]
        self._times = self._times[1::2]
        self._every *= 2

    def curves(self) -> dict[str, Any]:
        """Return the samples; each covers the time since the one before it.

        `start` is in seconds of the clock, `seconds` since then, `processors` 1.0 for one busy
        core, `resident_bytes` the highest, the others are means.
        """
        curves: dict[str, Any] = {
            "start": round(self._start, 4),
            "seconds": list(self._times),
            "resident_bytes": list(self._resident),
        }
        for index, (name, rates) in enumerate(zip(_RATES, self._rates, strict=True)):
            curves[name] = [int(rate) for rate in rates] if index else list(rates)
        return curves

    def peaks(self) -> dict[str, Any]:
        """Return the highest values of one second, and what was used in all."""
        names = ("cpu_seconds", "read_bytes", "written_bytes", "received_bytes", "sent_bytes")
        peaks = zip(_RATES, self._peaks, strict=True)
        totals = zip(names, self._totals, strict=True)
        return {
            **{name: round(peak, 3) for name, peak in peaks},
            **{name: round(total, 3) for name, total in totals},
            "resident_bytes": self.peak_resident,
            "processes": self.peak_processes,
        }


def _moved(before: dict[_Key, _Disk], now: dict[_Key, _Disk]) -> tuple[int, int]:
    """Return the bytes read and written between two samples.

    The kernel adds what an exited process has moved to the process that waits for it, so the sum
    over all goes on counting it, until no process of the job is left to wait. Negative when a
    process has exited after its parent was read: the parent has it only in the next sample.
    """
    read = sum(one.read for one in now.values()) - sum(one.read for one in before.values())
    written = sum(one.written for one in now.values()) - sum(one.written for one in before.values())
    alive = {pid for pid, _ in now}
    exited = {key[0]: one for key, one in before.items() if key not in now}
    for one in exited.values():
        parent = one.parent
        while parent in exited and parent not in alive:
            parent = exited[parent].parent
        if parent not in alive:
            read, written = read + one.read, written + one.written
    return read, written
