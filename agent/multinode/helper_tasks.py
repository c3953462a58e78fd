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

from agent.core.errors import BAD_SETTINGS, NO_PERMISSION, TRY_AGAIN, AgentError, why
from agent.core.model import Emit
from agent.multinode.output_claim import claim
from agent.multinode.sftp import Remote, load

_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 5.0
_TELL_AT_ONCE = 64


def join(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Announce this worker to the main node; return main's greeting, this node's own address, and
    the index of the node that has its output directory, which others may have too (`owner`).

    `request`: address, port, user, directory, timeout, seconds (until the join deadline),
    job, attempt, node {index, address, slots, version}, output_dir.
    Emits {"connected": address, "token": of the attempt} and waits for a line on standard input
    before it announces: the agent has a line of its own open by then, and beats at once. It knows
    the claim that it has to release, should this helper be ended.
    Raises AgentError 77 (keys), 75 (deadline), 78 (another job's main node).
    """
    deadline = time.monotonic() + request["seconds"]
    backoff = _FIRST_BACKOFF
    last: AgentError | None = None
    while True:
        try:
            return _announce(request, emit)
        except AgentError as error:
            if error.code != TRY_AGAIN:
                raise
            if str(error) != str(last):
                emit({"log": "info", "event": "join_retried", "cause": str(error)})
            last = error
        # Jitter: a thousand workers must not come back in the same instant.
        pause = backoff * random.uniform(0.5, 1.0)
        if time.monotonic() + pause > deadline:
            raise last
        time.sleep(pause)
        backoff = min(2 * backoff, _LONGEST_BACKOFF)


def _announce(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Read main's greeting, make its output directory here, and write the readiness file."""
    where = [request[name] for name in ("address", "port", "user", "directory", "timeout")]
    what = f"join {request['address']}"
    try:
        with Remote(*where) as remote:
            greeting: dict[str, Any] = json.loads(remote.read("main.json"))
            ours = (request["job"], request["attempt"])
            if (greeting["job"], greeting["attempt"]) != ours:
                raise AgentError(
                    what,
                    f"it runs attempt {greeting['attempt']} of job {greeting['job']}",
                    code=BAD_SETTINGS,
                    hint="start all nodes of one attempt together",
                )
            emit({"connected": request["address"], "token": greeting["token"]})
            sys.stdin.readline()
            share_directory(greeting["output_dir"], request["output_dir"])
            owner = claim(request["output_dir"], greeting["token"], request["node"]["index"])
            # What mpirun connects to is the address that main sees.
            node = dict(request["node"])
            node["address"] = node["address"] or remote.own_address
            _write_readiness(remote, node | {"job": ours[0], "attempt": ours[1]})
    except (OSError, EOFError) as error:
        cause, hint = str(error) or type(error).__name__, "look at the main node's log"
        raise AgentError(what, cause, code=TRY_AGAIN, hint=hint) from error
    return greeting | {"own_address": node["address"], "owner": owner}


def _write_readiness(remote: Remote, node: dict[str, Any]) -> None:
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
    timeout, seconds; a further line on standard input replaces what it names. Emits {"told": index,
    "in": number of the round} for each node, and {"round": number, "untold": {index: cause}} at the
    end of each round.
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
                    self._emit({"told": told[future], "in": request["round"]})
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
