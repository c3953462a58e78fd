"""Samples of a node: what is counted, how curves fold, and that nothing is counted twice."""

import contextlib
import subprocess
import time
from types import SimpleNamespace

import psutil
import pytest

from agent.launch.sampler import Sampler


class Scripted(Sampler):
    """A sampler without processes, whose network moves 1000 bytes in and 10 out each second."""

    now = 0

    def _processes(self):
        return []

    def _network_bytes(self):
        return 1000 * self.now, 10 * self.now

    def sample(self, now):
        self.now = now
        super().sample(now)


@pytest.mark.parametrize("seconds", [1, 599, 600, 601, 5000, 30000])
def test_curves_fold(seconds):
    """However long a run is, its curves have at most 600 points, cover it all, and stay true."""
    sampler = Scripted(set(), 0)
    for second in range(1, seconds + 1):
        sampler.sample(second)
    curves = sampler.curves()
    count = len(curves["seconds"])
    assert {len(values) for name, values in curves.items() if name != "start"} == {count}
    assert min(seconds, 300) <= count <= 600
    assert seconds - curves["seconds"][-1] < seconds / 150
    assert set(curves["received_bytes_per_second"]) == {1000}
    assert set(curves["sent_bytes_per_second"]) == {10}
    assert sampler.peaks()["received_bytes"] == 1000 * seconds


def test_peak_outlives_folding():
    """A burst of one second is in the peaks with its full height, in the curve with its bytes."""
    sampler = Scripted(set(), 0)
    for second in range(1, 3001):
        sampler.sample(second)
        if second == 100:
            sampler._network = (sampler._network[0] - 10**6, sampler._network[1])
    assert sampler.peaks()["received_bytes_per_second"] == 1000 + 10**6
    curves = sampler.curves()
    step = curves["seconds"][1] - curves["seconds"][0]
    moved = sum(curves["received_bytes_per_second"]) * step
    assert moved == pytest.approx(1000 * curves["seconds"][-1] + 10**6, rel=0.01)


def counted(path, size):
    """Return the bytes that the kernel counts where so many are written to a new file.

    None in memory, and twice as many where a file system in user space writes them once more.
    """
    script = f"head -c {size} /dev/zero >{path}; cat /proc/$$/io"
    done = subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True)
    return int(dict(line.split(": ") for line in done.stdout.splitlines())["write_bytes"])


def run_sampled(script, every=0.05):
    """Return the sampler that has watched a shell script until its exit."""
    others = {process.pid for process in psutil.Process().children(recursive=True)}
    sampler = Sampler(others, time.monotonic())
    with subprocess.Popen(["sh", "-c", script]) as process:
        while process.poll() is None:
            time.sleep(every)
            sampler.sample(time.monotonic())
    return sampler


def test_disk_is_counted_once(tmp_path):
    """What an exited process has written is its parent's too by the kernel: it counts once."""
    size = 8 << 20
    one = counted(tmp_path / "alone", size)
    if not one:
        pytest.skip("the kernel counts no bytes written to memory")
    (tmp_path / "one").write_text(f'head -c {size} /dev/zero >"$1"; sleep 0.3; true\n')
    (tmp_path / "both").write_text("sh ./one a; sh ./one b; sleep 0.3; true\n")
    script = f"cd {tmp_path}; sh ./both; sleep 0.3; true"
    sampler = run_sampled(script)
    assert 1.9 * one <= sampler.peaks()["written_bytes"] < 2.5 * one


class Counted:
    """A process as psutil shows it, of which only the disk is of interest."""

    def __init__(self, pid, parent, written):
        self.pid, self.parent, self.written = pid, parent, written

    oneshot = contextlib.nullcontext

    def name(self):
        return "app"

    def create_time(self):
        return 0.0

    def cpu_times(self):
        return SimpleNamespace(user=0.0, system=0.0)

    def memory_info(self):
        return SimpleNamespace(rss=0)

    def ppid(self):
        return self.parent

    def io_counters(self):
        return SimpleNamespace(read_bytes=0, write_bytes=self.written)


def test_a_child_that_ends_while_its_parent_is_read(monkeypatch):
    """The sample that finds it nowhere is short; what it has written counts once in the end."""
    samples = iter(
        [
            [Counted(2, 1, 100), Counted(3, 2, 8000)],
            [Counted(2, 1, 100)],  # read before it waited for the child
            [Counted(2, 1, 8300)],
            [Counted(2, 1, 8400)],
        ]
    )
    sampler = Sampler(set(), 0.0)
    monkeypatch.setattr(sampler, "_processes", lambda: next(samples))
    totals = []
    for second in range(1, 5):
        sampler.sample(float(second))
        totals.append(sampler.peaks()["written_bytes"])
    assert totals == [8100, 8100, 8300, 8400]


def test_processors_and_memory_are_the_job_s():
    """A busy shell is one processor, and its memory is seen; what is the agent's own is not."""
    sampler = run_sampled("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")
    peaks = sampler.peaks()
    assert peaks["cpu_seconds"] > 0.05 and peaks["processes"] == 1
    assert 0.2 < peaks["processors"] < 2
    assert 100_000 < peaks["resident_bytes"] < 50_000_000


def test_network_leaves_lo_out(monkeypatch):
    """What a node sends to itself is not traffic; all other interfaces count."""
    moved = psutil.net_io_counters()._replace
    nics = {"lo": moved(bytes_recv=10**9, bytes_sent=10**9)}
    monkeypatch.setattr(psutil, "net_io_counters", lambda **_: nics)
    sampler = Sampler(set(), 0.0)
    nics |= {name: moved(bytes_recv=500, bytes_sent=20) for name in ("eth0", "eth1")}
    nics["lo"] = moved(bytes_recv=10**10, bytes_sent=10**10)
    sampler.sample(1.0)
    assert sampler.peaks()["received_bytes"] == 1000 and sampler.peaks()["sent_bytes"] == 40


def test_an_unreadable_process_costs_only_its_disk(monkeypatch):
    """Where the kernel hides what a process wrote, processors and memory still count."""

    def refuse(self):
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "io_counters", refuse)
    sampler = run_sampled("sleep 0.3")
    assert sampler.peaks()["resident_bytes"] > 0 and sampler.peaks()["written_bytes"] == 0
