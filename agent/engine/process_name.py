"""Name the agent's own processes."""


def name_process(name: str) -> None:
    """Name this process (at most 15 bytes), so that `pkill python3` does not kill the job."""
    try:
        with open("/proc/self/comm", "w", encoding="ascii") as comm:
            comm.write(name)
    except OSError:
        pass  # proot's /proc, or none at all


def name_of(pid: int) -> str:
    """Return a process's name, its number where it has gone."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return str(pid)
