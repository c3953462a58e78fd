"""Let N workers join a real main node at once: does every one come in, and what does it cost there?

The workers are connections from threads of one process, each of which announces itself as a node
does, without a second try; the main node is an agent with its sshd. Printed: seconds until all are
in, processor seconds of the main node's agent and sshd, and these per worker. Run by hand:
PYTHONPATH=. .tox/tests/bin/python benchmarks/joining.py [N…]
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil

from agent.multinode.sftp import Sftp, load
from agent.tools.cluster import ports
from agent.tools.cluster.job import BUCKET, PRIVATE_KEY, Job
from agent.tools.cluster.s3 import EmbeddedS3
from benchmarks.common import REPOSITORY, make_private, write

ADDRESS = "127.0.0.2"
LIMIT_SECONDS = 120.0


def main() -> None:
    """Measure for each number of workers."""
    counts = [int(word) for word in sys.argv[1:]] or [4, 16, 64, 256]
    load()
    rows = []
    with tempfile.TemporaryDirectory(prefix="architrave-bench-") as name:
        directory = Path(name)
        private = make_private(directory)
        with EmbeddedS3(directory / "s3") as s3:
            s3.create_bucket(BUCKET)
            s3.put_file(BUCKET, PRIVATE_KEY, private)
            for count in counts:
                rows.append(measure(count, directory / f"root-{count}", s3, private))
                row = rows[-1]
                print(
                    f"{count:4} workers in {row['seconds']:6.2f} s, "
                    f"main node {row['cpu_seconds']:6.2f} s of processor, "
                    f"{1000 * row['cpu_seconds'] / count:5.1f} ms a worker, "
                    f"{row['refused']} refused",
                    flush=True,
                )
    write("joining", rows)


def measure(count: int, root: Path, s3: EmbeddedS3, private: Path) -> dict[str, float]:
    """Start a main node that waits for so many workers, let them come, and read its times."""
    reserved = ExitStack()
    port = ports.common_port([ADDRESS], reserved)
    job = Job(nodes=count + 1, image=None, private=private, env={"APP_BIN": "/bin/sleep"})
    env = s3.environment() | job.environment(0, ADDRESS)
    env |= {"APP_PARAMS": "600", "ARCHITRAVE_LAUNCHER": "direct", "PATH": os.environ["PATH"]}
    env |= {"ARCHITRAVE_ROOT": str(root), "ARCHITRAVE_ADDRESS": ADDRESS}
    env |= {"ARCHITRAVE_SSH_PORT": str(port), "ARCHITRAVE_INTERFACE": "lo"}
    # A joined worker need not beat here.
    env["ARCHITRAVE_HEARTBEAT_SECONDS"] = "60"
    for name in ("opt", "tmp"):
        (root / name).mkdir(parents=True)
    log = (root / "log").open("wb")
    command = [sys.executable, "-m", "agent", "run"]
    agent = subprocess.Popen(command, env=env, cwd=REPOSITORY, stderr=log)
    try:
        wait_for(root / "log", "workers join")
        before = cpu_seconds(agent.pid)
        start = time.monotonic()
        refused = join_all(count, root, port, job)
        if not refused:
            wait_for(root / "log", "all nodes joined")
        seconds = time.monotonic() - start
        return {
            "workers": count,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds(agent.pid) - before,
            "refused": refused,
        }
    finally:
        agent.terminate()
        agent.wait()
        reserved.close()


def join_all(count: int, root: Path, port: int, job: Job) -> int:
    """Announce every worker in the same moment; return how many were refused."""
    together = threading.Barrier(count)
    ssh = str(root / f"var/tmp/.architrave-{os.geteuid()}/ssh")
    user = pwd.getpwuid(os.geteuid()).pw_name

    def join(index: int) -> bool:
        worker = {"index": index, "address": f"127.0.1.{index % 250}", "slots": 1, "version": "1"}
        worker |= {"job": job.job_id, "attempt": job.attempt}
        together.wait()
        try:
            with Sftp(ADDRESS, port, user, ssh, LIMIT_SECONDS) as remote:
                remote.read("main.json")
                name = f"workers_ready/{index}.json"
                remote.write(name, json.dumps(worker).encode(), replace=False)
        except Exception as error:
            print(f"worker {index}: {error}")
            return False
        return True

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(join, range(1, count + 1))).count(False)


def cpu_seconds(agent: int) -> float:
    """Return the processor seconds of an agent, its sshd, and all that these have waited for."""
    process = psutil.Process(agent)
    return sum(sum(each.cpu_times()[:4]) for each in (process, *process.children()))


def wait_for(log: Path, text: str) -> None:
    """Wait until the agent's log has a text."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while text not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.01)


if __name__ == "__main__":
    main()
