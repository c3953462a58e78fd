"""Carry messages between nodes. Runs in helper processes, driven by the agent's requests."""

from __future__ import annotations

import errno
import json
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from agent.errors import BAD_SETTINGS, NO_PERMISSION, TRY_AGAIN, AgentError, why
from agent.model import Emit
from agent.remote import Remote, load

_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 5.0
_TELL_AT_ONCE = 64


def join(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Announce this worker to the main node, then do what the agent asks, line by line.

    `request`: address, port, user, directory, timeout, seconds (until the join deadline),
    job, attempt, node {index, address, slots, version}, output_dir.
    Emits {"joined": main's greeting}, {"beat": n} per `beat`, {"put": path} per `put`; ends when
    standard input does. Raises AgentError 77 (keys), 75 (deadline), 78 (another job's main node).
    """
    link = _Link(request, emit)
    greeting = link.until_deadline(link.announce)
    emit({"joined": greeting})
    for line in sys.stdin:
        link.obey(json.loads(line))
    return {}


class _Link:
    """The connection of a worker to the main node; made again when it breaks."""

    def __init__(self, request: dict[str, Any], emit: Emit) -> None:
        self._request = request
        self._emit = emit
        self._remote: Remote | None = None
        self._deadline = time.monotonic() + request["seconds"]

    def until_deadline(self, action: Any) -> Any:
        """Try until it works; raise the last error at the deadline, or at once what stays wrong."""
        backoff = _FIRST_BACKOFF
        last: AgentError | None = None
        while True:
            try:
                return action()
            except AgentError as error:
                if error.code != TRY_AGAIN:
                    raise
                if str(error) != str(last):
                    self._emit({"log": "info", "event": "not joined yet", "cause": str(error)})
                last = error
            # Jitter: a thousand workers must not come back in the same instant.
            pause = backoff * random.uniform(0.5, 1.0)
            if time.monotonic() + pause > self._deadline:
                raise last
            time.sleep(pause)
            backoff = min(2 * backoff, _LONGEST_BACKOFF)

    def announce(self) -> dict[str, Any]:
        """Read main's greeting, make its output directory here, and write the readiness file."""
        request = self._request
        remote = self._connected()
        try:
            greeting: dict[str, Any] = json.loads(remote.read("main.json"))
            ours = (request["job"], request["attempt"])
            if (greeting["job"], greeting["attempt"]) != ours:
                raise AgentError(
                    f"join {request['address']}",
                    f"it runs attempt {greeting['attempt']} of job {greeting['job']}",
                    code=BAD_SETTINGS,
                    hint="start all nodes of one attempt together",
                )
            share_directory(greeting["output_dir"], request["output_dir"])
            # What mpirun connects to is the address that main sees.
            node = dict(request["node"])
            node["address"] = node["address"] or remote.own_address
            self._write_readiness(remote, node | {"job": ours[0], "attempt": ours[1]})
        except (OSError, EOFError) as error:
            self._broken(error)
        return greeting | {"own_address": node["address"]}

    def _write_readiness(self, remote: Remote, node: dict[str, Any]) -> None:
        path = f"workers_ready/{node['index']}.json"
        data = json.dumps(node).encode()
        try:
            remote.write(path, data, replace=False)
        except OSError:
            # It may be ours, from before the connection broke.
            if remote.read(path) != data:
                raise AgentError(
                    f"join as worker {node['index']}",
                    "another node has this index",
                    code=BAD_SETTINGS,
                    hint="give every node its own AWS_BATCH_JOB_NODE_INDEX",
                ) from None

    def obey(self, order: dict[str, Any]) -> None:
        """Do one thing that the agent asks for; it counts what comes back, and what doesn't."""
        try:
            remote = self._connected()
            if order["do"] == "beat":
                remote.touch(f"workers_ready/{self._request['node']['index']}.json")
                self._emit({"beat": remote.modified("main.json")})
            else:
                remote.write(order["path"], order["data"].encode())
                self._emit({"put": order["path"]})
        except (OSError, EOFError, AgentError) as error:
            self._close()
            self._emit({"log": "debug", "event": "link broken", "cause": str(error)})

    def _connected(self) -> Remote:
        if self._remote is None:
            request = self._request
            self._remote = Remote(
                request["address"],
                request["port"],
                request["user"],
                request["directory"],
                request["timeout"],
            )
        return self._remote

    def _broken(self, error: Exception) -> None:
        self._close()
        raise AgentError(
            f"join {self._request['address']}",
            str(error) or type(error).__name__,
            code=TRY_AGAIN,
            hint="look at the main node's log",
        ) from error

    def _close(self) -> None:
        if self._remote is not None:
            self._remote.close()
            self._remote = None


def share_directory(main: str, own: str) -> None:
    """Make main's output directory on this node, as the same directory as its own.

    mpirun gives every rank main's path, and SCAR draws another one on every node and uploads that.
    """
    try:
        os.makedirs(own, exist_ok=True)
        if main != own and not os.path.lexists(main):
            os.makedirs(os.path.dirname(main), exist_ok=True)
            os.symlink(own, main)
    except OSError as error:
        if error.errno == errno.EEXIST and os.path.isdir(main):
            return
        raise AgentError(
            f"make the output directory {error.filename}",
            why(error),
            code=NO_PERMISSION,
            hint="set TMP_OUTPUT_DIR to a directory that this user may make",
        ) from error


def tell(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Put a file on other nodes, all at once, each tried until the deadline; then the next one.

    `request`: round (its number), nodes [{index, address}], path, data, port, user, directory,
    timeout, seconds; a further line on standard input replaces what it names. Emits {"told": index}
    for each node, and {"round": number, "untold": {index: cause}} at the end of each round.
    """
    teller = _Teller(emit)
    while True:
        emit({"round": request["round"], "untold": teller.tell(request)})
        line = sys.stdin.readline()
        if not line:
            return {}
        request |= json.loads(line)


class _Teller:
    """The connections of the main node to the workers, kept from one round to the next."""

    def __init__(self, emit: Emit) -> None:
        load()
        self._emit = emit
        self._kept: dict[int, Remote] = {}

    def tell(self, request: dict[str, Any]) -> dict[str, str]:
        """Do one round; return who could not be told, and why."""
        deadline = time.monotonic() + request["seconds"]
        untold = {}
        with ThreadPoolExecutor(_TELL_AT_ONCE) as pool:
            told = {
                pool.submit(self._tell_one, node, request, deadline): node["index"]
                for node in request["nodes"]
            }
            for future in as_completed(told):
                error = future.exception()
                if error is None:
                    self._emit({"told": told[future]})
                else:
                    untold[str(told[future])] = str(error)
        return untold

    def _tell_one(self, node: dict[str, Any], request: dict[str, Any], deadline: float) -> None:
        backoff = _FIRST_BACKOFF
        while True:
            seconds = max(0.5, min(request["timeout"], deadline - time.monotonic()))
            remote = self._kept.pop(node["index"], None)
            again = remote is not None
            try:
                if remote is None:
                    where = (request["port"], request["user"], request["directory"])
                    remote = Remote(node["address"], *where, seconds)
                remote.write(request["path"], request["data"].encode())
            except (AgentError, OSError):
                if remote is not None:
                    remote.close()
                if not again and time.monotonic() + backoff > deadline:
                    raise
            else:
                # Each costs a thread and a descriptor here, and a process there.
                if len(self._kept) < _TELL_AT_ONCE:
                    self._kept[node["index"]] = remote
                else:
                    remote.close()
                return
            if not again:
                time.sleep(backoff * random.uniform(0.5, 1.0))
                backoff = min(2 * backoff, _LONGEST_BACKOFF)
