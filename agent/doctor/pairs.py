"""Reach every other node by TCP and by ssh: the application of the doctor's own job.

`architrave doctor` runs it on every node at once, with the launcher `each`. One program listens and
connects, since mpirun's daemons and ranks must reach each other on ports that are not known before.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_AT_ONCE = 16
_CANDIDATES = 4
_KNOCK_SECONDS, _PAUSE_SECONDS = 3.0, 0.2
# The others may start some seconds later.
_TCP_SECONDS, _SSH_SECONDS = 15.0, 30.0
# After its own calls a node stays for those that start later; many nodes take longer.
_STAY_SECONDS, _STAY_SECONDS_PER_NODE = 20.0, 0.1
_SSH_OPTIONS = ("-o", "ConnectTimeout=5", "-o", "ConnectionAttempts=1")


def ports(job: str, attempt: int) -> list[int]:
    """Return the ports that all nodes of an attempt try to listen on, below the ephemeral ports.

    Several nodes may share a machine, and one of them another program's port.
    """
    digest = hashlib.sha256(f"{job}\0{attempt}".encode()).digest()
    return [20000 + int.from_bytes(digest[2 * i : 2 * i + 2]) % 12000 for i in range(_CANDIDATES)]


class Door:
    """The port at which this node is called; `visitors` are those that have called."""

    def __init__(self, index: int, address: str, candidates: list[int]) -> None:
        self.visitors: set[int] = set()
        self._index = index
        self._socket = self._listen(address, candidates)
        threading.Thread(target=self._serve, daemon=True).start()

    def _listen(self, address: str, candidates: list[int]) -> socket.socket:
        for port in candidates[:-1]:
            try:
                return socket.create_server((address, port), backlog=1024)
            except OSError:
                continue
        return socket.create_server((address, candidates[-1]), backlog=1024)

    def _serve(self) -> None:
        while True:
            caller, _ = self._socket.accept()
            threading.Thread(target=self._greet, args=(caller,), daemon=True).start()

    def _greet(self, caller: socket.socket) -> None:
        try:
            with caller:
                caller.settimeout(_KNOCK_SECONDS)
                caller.sendall(f"architrave {self._index}\n".encode())
                self.visitors.add(int(caller.makefile("rb").readline(64)))
        except (OSError, ValueError):
            pass  # the caller reports what it missed


def knock(own: int, index: int, address: str, candidates: list[int], seconds: float) -> str:
    """Connect to another node until it answers, for `seconds`; return the cause if it doesn't."""
    deadline = time.monotonic() + seconds
    cause = "nothing listens"
    while True:
        for port in candidates:
            try:
                with socket.create_connection((address, port), _KNOCK_SECONDS) as called:
                    answer = called.makefile("rb").readline(64)
                    called.sendall(f"{own}\n".encode())
                if answer == f"architrave {index}\n".encode():
                    return ""
                cause = f"another program listens on port {port}"
            except ConnectionRefusedError:
                pass  # another candidate, or not yet
            except OSError as error:
                cause = f"port {port}: {(error.strerror or str(error)).lower()}"
            if time.monotonic() > deadline:
                return cause
        time.sleep(_PAUSE_SECONDS)


def log_in(address: str, config: str) -> tuple[str, float]:
    """Log in by ssh with the job's own keys; return the cause if not, and how far its clock is off.

    In seconds, positive when the other one is ahead.
    """
    command = ["ssh", "-F", config, *_SSH_OPTIONS, address, "date +%s"]
    before = time.time()
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SSH_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {_SSH_SECONDS:g} s", 0.0
    except OSError as error:
        return f"ssh: {(error.strerror or str(error)).lower()}", 0.0
    lines = done.stderr.strip().splitlines() or [f"ssh exited with {done.returncode}"]
    if done.returncode:
        return lines[-1].strip(), 0.0
    try:
        other = int(done.stdout)
    except ValueError:
        return f"ssh returned {done.stdout[:40]!r} instead of the time", 0.0
    # The other's time was asked somewhere in between, and is in whole seconds.
    now = time.time()
    return "", max(0.0, other - now) or min(0.0, other + 1 - before)


def main() -> None:
    """Do what the JSON argument asks: indexes, job, attempt, config (ssh's), result (a file)."""
    request: dict[str, Any] = json.loads(sys.argv[1])
    own = int(os.environ["NODE_RANK"])
    with open(os.environ["HOSTFILE"], encoding="ascii") as file:
        addresses = [line.split()[0] for line in file]
    nodes = dict(zip(request["indexes"], addresses, strict=True))
    candidates = ports(request["job"], request["attempt"])
    door = Door(own, nodes[own], candidates)
    others = [index for index in nodes if index != own]

    def visit(index: int) -> dict[str, Any]:
        address = nodes[index]
        ssh, clock = log_in(address, request["config"])
        tcp = knock(own, index, address, candidates, _TCP_SECONDS)
        return {"to": index, "tcp": tcp, "ssh": ssh, "clock": clock}

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        pairs = list(pool.map(visit, others))
    end = time.monotonic() + _STAY_SECONDS + _STAY_SECONDS_PER_NODE * len(nodes)
    while door.visitors != set(others) and time.monotonic() < end:
        time.sleep(_PAUSE_SECONDS)
    with open(f"{request['result']}.new", "w", encoding="utf-8") as file:
        json.dump(pairs, file)
    os.rename(f"{request['result']}.new", request["result"])
    os._exit(0)  # silent callers are not waited for


if __name__ == "__main__":
    main()
