"""A container's limits and usage, for both cgroup versions, as files recorded on such machines.

The machine that runs the tests has one of the two: there a real container is killed for memory
(tests/faults/test_application.py). The other form is checked here.
"""

import pytest

from agent.launch import cgroup

V2 = {
    "cgroup.controllers": "cpuset cpu io memory pids\n",
    "system.slice/cpu.max": "max 100000\n",
    "system.slice/memory.max": "2147483648\n",
    "system.slice/job/cpu.max": "150000 100000\n",
    "system.slice/job/memory.max": "max\n",
    "system.slice/job/memory.peak": "1073741824\n",
    "system.slice/job/memory.events": "low 0\nhigh 0\nmax 41\noom 2\noom_kill 2\n",
}
V1 = {
    "cpu,cpuacct/docker/job/cpu.cfs_quota_us": "-1\n",
    "cpu,cpuacct/docker/job/cpu.cfs_period_us": "100000\n",
    "memory/memory.limit_in_bytes": "9223372036854771712\n",
    "memory/docker/job/memory.limit_in_bytes": "100663296\n",
    "memory/docker/job/memory.max_usage_in_bytes": "100663296\n",
    "memory/docker/job/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
}
# A container that sees only its own group: the path that the kernel names isn't below the mount.
V2_OWN = {
    "cgroup.controllers": "cpu memory pids\n",
    "memory.max": "134217728\n",
    "memory.peak": "99\n",
    "memory.events": "oom 1\noom_kill 1\n",
}
V1_OWN = {
    "memory/memory.limit_in_bytes": "134217728\n",
    "memory/memory.max_usage_in_bytes": "99\n",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
}
NAMES_V1 = "9:name=systemd:/docker/job\n4:memory:/docker/job\n2:cpu,cpuacct:/docker/job\n0::/\n"


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Return what replaces /sys/fs/cgroup with a tree, and /proc/self/cgroup with a text."""

    def make(files, names):
        for name, content in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        (tmp_path / "self").write_text(names)
        monkeypatch.setattr(cgroup, "_ROOT", str(tmp_path / "cgroup"))
        monkeypatch.setattr(cgroup, "_OWN", str(tmp_path / "self"))

    return make


@pytest.mark.cell("application.memory")
@pytest.mark.parametrize(
    ("files", "names", "limit", "peak", "kills"),
    [
        (V2, "0::/system.slice/job\n", 2 << 30, 1 << 30, 2),
        (V1, NAMES_V1, 96 << 20, 96 << 20, 3),
        (V2_OWN, "0::/system.slice/job\n", 128 << 20, 99, 1),
        (V1_OWN, NAMES_V1, 128 << 20, 99, 1),
        ({}, "", None, None, 0),
        ({"cgroup.controllers": "memory\n", "memory.max": "max\n"}, "0::/\n", None, None, 0),
    ],
    ids=["v2", "v1", "v2 own", "v1 own", "none", "no limit"],
)
def test_memory(kernel, files, names, limit, peak, kills):
    """The smallest limit on the way up counts; peak and kills are the group's own."""
    kernel(files, names)
    assert cgroup.memory_limit() == limit
    assert cgroup.memory_peak() == peak
    assert cgroup.oom_kills() == kills


@pytest.mark.parametrize(
    ("files", "names", "count"),
    [
        (V2, "0::/system.slice/job\n", 1),
        (V1, NAMES_V1, 64),
        (V2 | {"system.slice/job/cpu.max": "800000 100000\n"}, "0::/system.slice/job\n", 8),
        (V2 | {"system.slice/cpu.max": "50000 100000\n"}, "0::/system.slice/job\n", 1),
    ],
    ids=["v2 of one and a half", "v1 without a quota", "v2 of eight", "v2 of a half above"],
)
def test_processors(kernel, monkeypatch, files, names, count):
    """Whole processors of the smallest quota, at least one, at most those of the affinity."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)))
    kernel(files, names)
    assert cgroup.processors() == count
