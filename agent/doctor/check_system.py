"""Check what this machine or container offers: shared memory, processors, limits."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Mapping

from agent.core.errors import OS_ERROR
from agent.core.units import size
from agent.doctor.context import Context
from agent.doctor.finding import PASS, WARN, Check, Finding
from agent.launch import cgroup

_SHM = "/dev/shm"
# Docker's default; Open MPI keeps the messages between the ranks of a node here.
_DOCKER_SHM = 64 << 20
_ENOUGH_SHM_PER_RANK = 16 << 20
# The agent's helpers while they fetch and unpack: boto3, and 7-Zip's dictionary.
_AGENT_MEMORY = 256 << 20
# The agent, its helper and threads, sshd, mpirun; a rank has threads of its own.
_AGENT_PROCESSES, _PROCESSES_PER_RANK = 28, 4
_DESCRIPTORS = 256
_SECONDS = 5.0
_LATE = ("check this machine", OS_ERROR, "check the file systems: mount; df -h")


def shared_memory(context: Context) -> Finding:
    """See that shared memory suffices for the messages of this node's ranks."""
    one_process = context.slots == 1 or not context.mpirun
    try:
        usage = shutil.disk_usage(_SHM)
    except OSError:
        usage = None
    hint = "docker run --shm-size 1g; Batch: linuxParameters.sharedMemorySize"
    if usage is None or not os.access(_SHM, os.W_OK):
        what = f"no writable {_SHM}"
        if one_process:
            return Finding(PASS, f"{what}; one process without MPI needs none")
        return Finding(WARN, f"{what}, and {context.slots} ranks would share it", hint)
    what = f"{_SHM}: {size(usage.free)} of {size(usage.total)} free"
    small = usage.total <= _DOCKER_SHM or usage.free < context.slots * _ENOUGH_SHM_PER_RANK
    if small and not one_process:
        return Finding(WARN, f"{what} for {context.slots} ranks", hint)
    return Finding(PASS, what)


def processors(context: Context) -> Finding:
    """Compare the processes of this node with the processors that it may use."""
    usable, gpus = cgroup.processors(), cgroup.graphics_processors()
    what = f"slots: {context.slots}, processors: {usable}"
    what += f", GPUs: {gpus}" if gpus else ""
    if context.slots > max(usable, gpus):
        hint = f"ARCHITRAVE_SLOTS={usable}, or give the container more processors"
        return Finding(WARN, f"{what}: oversubscribed", hint)
    return Finding(PASS, what)


def memory(context: Context) -> Finding:
    """See that the agent's own work fits into the memory limit, and files that are in memory."""
    limit = cgroup.memory_limit()
    if limit is None:
        return Finding(PASS, f"no limit; the machine has {size(_physical())}")
    hint = "docker run --memory 2g; Batch: MEMORY in resourceRequirements"
    if limit < _AGENT_MEMORY and (context.settings.private or context.settings.deps):
        return Finding(WARN, f"the limit of {size(limit)} is low for fetching and unpacking", hint)
    kept = sum(
        needed for path, needed in context.needs.items() if needed and _file_system(path) == "tmpfs"
    )
    if kept and limit - kept < _AGENT_MEMORY:
        what = f"the limit is {size(limit)}, and {size(kept)} of archives are in memory (tmpfs)"
        return Finding(WARN, what, hint)
    return Finding(PASS, f"the limit is {size(limit)}")


def _physical() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _file_system(path: str) -> str:
    """Return the kind of the file system that a path is on."""
    found = ("", "")
    try:
        with open("/proc/mounts", encoding="utf-8", errors="surrogateescape") as table:
            for line in table:
                _, mounted, kind, *_ = line.split()
                inside = mounted == "/" or path == mounted or path.startswith(f"{mounted}/")
                found = max(found, (mounted, kind)) if inside else found
    except OSError:
        pass
    return found[1]


def limits(context: Context) -> list[Finding]:
    """See that the limits allow the job's processes and open files."""
    found = []
    wanted = _AGENT_PROCESSES + _PROCESSES_PER_RANK * context.slots
    limit = cgroup.process_limit()
    if limit is not None and limit < wanted:
        what = f"this container may have {limit} processes and threads"
        found.append(Finding(WARN, what, f"docker run --pids-limit {max(512, wanted)}"))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < _DESCRIPTORS:
        what = f"a process may open {files} files"
        found.append(Finding(WARN, what, "ulimit -n 1024; docker run --ulimit nofile=1024"))
    processes = "no limit of processes" if limit is None else f"{limit} processes"
    return found or [Finding(PASS, f"{processes}, {files} open files")]


def names(env: Mapping[str, str]) -> list[Finding]:
    """Find unknown variables with our prefix."""
    from agent.core import variables

    found = []
    for name, near in variables.unknown(env).items():
        hint = f"did you mean {near}?" if near else "architrave explain shows the names"
        found.append(Finding(WARN, f"unknown variable {name}: it has no effect", hint))
    return found or [Finding(PASS, "every ARCHITRAVE_ name is known")]


NAMES = Check("names", names, _SECONDS, _LATE)
CHECKS = (
    Check("processors", processors, _SECONDS, _LATE),
    Check("memory", memory, _SECONDS, _LATE),
    Check("shared memory", shared_memory, _SECONDS, _LATE),
    Check("limits", limits, _SECONDS, _LATE),
)
