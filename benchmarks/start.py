"""Compare starts, memory and idle wake-ups with other inits, in a container of the image.

A start is the time from the start of the init to its end around `true`; memory and wake-ups are
those of the init's process while `sleep` runs. The inits come from Debian's packages. Run by hand:
PYTHONPATH=. .venv/bin/python benchmarks/start.py [RUNS] [IMAGE]
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

TAG = "architrave:bench"
DOCKERFILE = """FROM {image}
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends tini dumb-init supervisor
"""
PYTHON = "/opt/architrave/bin/python3"
AGENT = "/opt/architrave/bin/architrave"
# What a Python init can't do without: block signals, fork, wait.
BARE = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
child = os.fork()
if child == 0:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execvp(sys.argv[1], sys.argv[1:])
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
INITS = {
    "tini": ["tini", "-s", "--"],
    "dumb-init": ["dumb-init", "--"],
    "bare Python": [PYTHON, "-I", "-c", BARE],
    "architrave exec": [AGENT, "exec", "--"],
}
SUPERVISORD = """[supervisord]
nodaemon=true
logfile=/dev/null
logfile_maxbytes=0
pidfile=/tmp/supervisord.pid
[program:one]
command={command}
autorestart=false
"""
JOB = {"EXEC_TYPE": "lambda", "ARCHITRAVE_LAUNCHER": "direct", "TMP_OUTPUT_DIR": "/tmp/results"}
SLEEP_SECONDS, WATCHED_SECONDS = 1.5, 8.0


def main() -> None:
    """Build the image with the peers, measure inside, print a table."""
    runs, image = (*sys.argv[1:], *("15", "architrave:test")[len(sys.argv) - 1 :])
    build = ["docker", "build", "-q", "-t", TAG, "-"]
    text = DOCKERFILE.format(image=image)
    subprocess.run(build, input=text.encode(), check=True, stdout=subprocess.DEVNULL)
    here = f"{Path(__file__).resolve()}:/start.py:ro"
    inside = ["docker", "run", "--rm", "-v", here, "--entrypoint", PYTHON, TAG, "-I", "/start.py"]
    done = subprocess.run([*inside, "inside", runs], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    bare = found["start"]["bare Python"]
    for name, value in found["start"].items():
        print(f"start  {name:16} {value:7.1f} ms  {value / bare:5.2f} x the bare Python init")
    print(f"signals blocked after the start {found['blocked']:.1f} ms")
    print(f"a job in the Lambda mode, beside its application {found['job']:.1f} ms")
    for name, (resident, wakes) in found["idle"].items():
        print(f"idle   {name:16} {resident:7.1f} MiB resident  {wakes:5.2f} wake-ups a second")
    from benchmarks.common import write  # not there inside the container

    write("start", found)


def inside(runs: int) -> None:
    """Measure, the inits one after the other, and that several times."""
    seen: dict[str, list[float]] = {name: [] for name in INITS}
    blocked, job = [], []
    for _ in range(runs):
        for name, words in INITS.items():
            seen[name].append(timed([*words, "true"], {}))
        blocked.append(until_blocked())
        env = JOB | {"APP_BIN": "/bin/sleep", "APP_PARAMS": str(SLEEP_SECONDS)}
        job.append(timed([AGENT, "run"], env) - timed(["sleep", str(SLEEP_SECONDS)], {}))
    result = {
        "start": {name: 1000 * statistics.median(times) for name, times in seen.items()},
        "blocked": 1000 * statistics.median(blocked),
        "job": 1000 * statistics.median(job),
        "idle": idle(),
    }
    print(json.dumps(result))


def timed(words: list[str], env: dict[str, str]) -> float:
    """Return the seconds that a command takes."""
    quiet = subprocess.DEVNULL
    start = time.monotonic()
    subprocess.run(words, env=os.environ | env, stdin=quiet, stdout=quiet, stderr=quiet, check=True)
    return time.monotonic() - start


def until_blocked() -> float:
    """Return the seconds until the agent blocks SIGTERM or handles it."""
    start = time.monotonic()
    process = subprocess.Popen([AGENT, "sleep", "60"])
    while not heeds(process.pid):
        pass
    seconds = time.monotonic() - start
    process.terminate()
    process.wait()
    return seconds


def heeds(pid: int) -> bool:
    """Return whether a process blocks or handles SIGTERM."""
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.split(":\t", 1) for line in status if line.startswith("Sig"))
    return bool((int(fields["SigBlk"], 16) | int(fields["SigCgt"], 16)) >> (signal.SIGTERM - 1) & 1)


def idle() -> dict[str, tuple[float, float]]:
    """Return resident MiB and wake-ups a second of each init while its command sleeps."""
    Path("/tmp/supervisord.conf").write_text(SUPERVISORD.format(command="/bin/sleep 60"))
    commands = {name: [*words, "sleep", "60"] for name, words in INITS.items()}
    commands["supervisord"] = ["supervisord", "-c", "/tmp/supervisord.conf"]
    commands["architrave job"] = [AGENT, "run"]
    env = os.environ | JOB | {"APP_BIN": "/bin/sleep", "APP_PARAMS": "60"}
    quiet = subprocess.DEVNULL
    started = {
        name: subprocess.Popen(words, env=env, stdout=quiet, stderr=quiet)
        for name, words in commands.items()
    }
    time.sleep(3)  # the start is over, and a job's first samples are taken
    before = {name: state(process.pid) for name, process in started.items()}
    time.sleep(WATCHED_SECONDS)
    after = {name: state(process.pid) for name, process in started.items()}
    for process in started.values():
        process.terminate()
    for process in started.values():
        process.wait()
    return {
        name: (after[name][0], (after[name][1] - before[name][1]) / WATCHED_SECONDS)
        for name in started
    }


def state(pid: int) -> tuple[float, int]:
    """Return a process's resident MiB and how often it has waited."""
    with open(f"/proc/{pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmRSS"].split()[0]) / 1024, int(fields["voluntary_ctxt_switches"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["inside"]:
        inside(int(sys.argv[2]))
    else:
        main()
