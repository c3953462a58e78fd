"""Name the agent's own processes."""


def name_process(name: str) -> None:
    """Name this process (at most 15 bytes), so that `pkill python3` does not kill the job."""
    try:
        with open("/proc/self/comm", "w", encoding="ascii") as comm:
            comm.write(name)
    except OSError:
        pass  # proot's /proc, or none at all
