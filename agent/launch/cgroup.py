"""Read this container's limits, usage and OOM kills from cgroup v1 and v2."""

from __future__ import annotations

import glob
import os

from agent.core.settings import LAMBDA, Settings

_ROOT, _OWN = "/sys/fs/cgroup", "/proc/self/cgroup"
# Version 1 writes "no limit" as a number near 2^63, rounded to pages.
_NO_LIMIT = 1 << 60


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


def _directories(controller: str) -> list[str]:
    """Return this process's cgroup for a controller, then its parents.

    In a container with its own cgroup namespace, or with only its own cgroup mounted, the path in
    /proc/self/cgroup may not exist below the mount: then the mount itself is ours.
    """
    for line in _read(_OWN).splitlines():
        _, names, path = line.split(":", 2)
        if names == "" and os.path.exists(f"{_ROOT}/cgroup.controllers"):
            base = _ROOT
        elif controller in names.split(","):
            base = f"{_ROOT}/{controller}"
        else:
            continue
        full = os.path.normpath(f"{base}/{path}")
        found = []
        while full.startswith(base):
            if os.path.isdir(full):
                found.append(full)
            full = os.path.dirname(full)
        return found
    return []


def processors() -> int:
    """Return how many processors this container may use: affinity and quota, at least 1."""
    count = len(os.sched_getaffinity(0))
    for directory in _directories("cpu"):
        quota, _, period = _read(f"{directory}/cpu.max").partition(" ")
        if not quota:
            quota = _read(f"{directory}/cpu.cfs_quota_us")
            period = _read(f"{directory}/cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            count = min(count, int(quota) // int(period))
    return max(1, count)


def cores() -> int:
    """Return how many physical cores this container may use, at least 1.

    https://docs.kernel.org/admin-guide/cputopology.html; without it each processor counts as one.
    """
    found = set()
    for number in os.sched_getaffinity(0):
        topology = f"/sys/devices/system/cpu/cpu{number}/topology"
        core = _read(f"{topology}/core_id") or f"processor {number}"
        found.add((_read(f"{topology}/physical_package_id"), core))
    return max(1, min(len(found), processors()))


def graphics_processors() -> int:
    """Return how many NVIDIA devices this container sees, /dev/nvidia10 and above included."""
    return sum(path[len("/dev/nvidia") :].isdigit() for path in glob.glob("/dev/nvidia*"))


def default_slots() -> int:
    """Return processes per node: GPUs if any, else processors."""
    return graphics_processors() or processors()


def memory_limit() -> int | None:
    """Return the smallest memory limit that applies, in bytes."""
    limits = []
    for directory in _directories("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(f"{directory}/{name}")
            if text.isdigit() and int(text) < _NO_LIMIT:
                limits.append(int(text))
    return min(limits, default=None)


def memory_peak() -> int | None:
    """Return the peak memory use of this cgroup, in bytes, if the kernel reports it."""
    for directory in _directories("memory"):
        for name in ("memory.peak", "memory.max_usage_in_bytes"):
            text = _read(f"{directory}/{name}")
            if text.isdigit():
                return int(text)
    return None


def slots(settings: Settings) -> int:
    """Return the processes for this node; lambda mode has always had one."""
    if settings.launch.slots == "cores":
        return cores()
    if settings.launch.slots == "threads":
        return processors()
    return int(settings.launch.slots) or (1 if settings.mode == LAMBDA else default_slots())


def process_limit() -> int | None:
    """Return how many processes and threads this container may have, if there is a limit."""
    texts = [_read(f"{directory}/pids.max") for directory in _directories("pids")]
    return min((int(text) for text in texts if text.isdigit()), default=None)


def oom_kills() -> int:
    """Return how many processes of this cgroup the kernel has killed for memory."""
    for directory in _directories("memory"):
        for name in ("memory.events", "memory.oom_control"):
            for line in _read(f"{directory}/{name}").splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill" and value.isdigit():
                    return int(value)
    return 0


def out_of_memory(before: int) -> str:
    """Return limit and peak as text if there are more kills than `before`, else nothing."""
    if oom_kills() <= before:
        return ""
    return f"out of memory: the limit is {memory_limit()} bytes, the peak was {memory_peak()}"
