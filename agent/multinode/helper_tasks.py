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

from agent.core.errors import BAD_SETTINGS, NO_PERMISSION, TRY_AGAIN, AgentError, os_reason
from agent.core.model import Emit
from agent.multinode.output_claim import claim
from agent.multinode.sftp import Sftp, load

_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 5.0
_NODES_AT_ONCE = 64


def join(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Announce this worker to the main node; return main's greeting, this node's own address, and
    the index of the node that has its output directory, which others may have too (`owner`).

    `request`: address, port, user, directory, timeout, seconds (until the join deadline),
    job, attempt, node {index, address, slots, version}, output_dir.
    Emits {"connected": address, "token": of the attempt} and waits for a line on standard input
    before it announces: by then the agent has opened its own link, and it sends heartbeats at once.
    It knows the claim that it has to release, should this helper be killed.
    Raises AgentError 77 (keys), 75 (deadline), 78 (another job's main node).
    """
    deadline = time.monotonic() + request["seconds"]
    backoff = _FIRST_BACKOFF
    last: AgentError | None = None
    while True:
        try:
            return _join_once(request, emit)
        except AgentError as error:
            if error.code != TRY_AGAIN:
                raise
            if str(error) != str(last):
                emit({"log": "info", "event": "join_retried", "cause": error.cause})
            last = error
        # Jitter: a thousand workers must not reconnect in the same instant.
        pause = backoff * random.uniform(0.5, 1.0)
        if time.monotonic() + pause > deadline:
            raise last
        time.sleep(pause)
        backoff = min(2 * backoff, _LONGEST_BACKOFF)


def _join_once(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Read main's greeting, make its output directory here, and write the readiness file."""
    where = [request[name] for name in ("address", "port", "user", "directory", "timeout")]
    what = f"join {request['address']}"
    try:
        with Sftp(*where) as sftp:
            greeting: dict[str, Any] = json.loads(sftp.read("main.json"))
            ours = (request["job"], request["attempt"])
            if (greeting["job"], greeting["attempt"]) != ours:
                raise AgentError(
                    what,
                    f"the main node runs attempt {greeting['attempt']} of job {greeting['job']}",
                    code=BAD_SETTINGS,
                    hint="start all nodes of one attempt together",
                )
            emit({"connected": request["address"], "token": greeting["token"]})
            sys.stdin.readline()
            share_directory(greeting["output_dir"], request["output_dir"])
            owner = claim(request["output_dir"], greeting["token"], request["node"]["index"])
            # What mpirun connects to is the address that main sees.
            node = dict(request["node"])
            node["address"] = node["address"] or sftp.own_address
            _write_readiness(sftp, node | {"job": ours[0], "attempt": ours[1]})
    except (OSError, EOFError) as error:
        cause, hint = str(error) or type(error).__name__, "see the main node's log"
        raise AgentError(what, cause, code=TRY_AGAIN, hint=hint) from error
    return greeting | {"own_address": node["address"], "owner": owner}


def _write_readiness(sftp: Sftp, node: dict[str, Any]) -> None:
    path = f"workers_ready/{node['index']}.json"
    data = json.dumps(node).encode()
    try:
        sftp.write(path, data, replace=False)
    except OSError:
        # It may be ours, from before the connection broke.
        if sftp.read(path) != data:
            raise AgentError(
                f"join as worker {node['index']}",
                "another node has this index",
                code=BAD_SETTINGS,
                hint="give every node its own AWS_BATCH_JOB_NODE_INDEX",
            ) from None


def share_directory(main: str, own: str) -> None:
    """Make main's output directory on this node, as the same directory as its own.

    mpirun gives every rank main's path; SCAR chooses a random one on every node and uploads that.
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
            os_reason(error),
            code=NO_PERMISSION,
            hint="set TMP_OUTPUT_DIR to a directory that this user may create",
        ) from error


def announce(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Put a file on other nodes, all at once, each tried until the deadline; then the next one.

    `request`: round (its number), nodes [{index, address}], path, data, port, user, directory,
    timeout, seconds; a further line on standard input replaces what it names. Emits {"announced":
    index, "in": number of the round} for each node, and {"round": number, "unreached": {index:
    cause}} at the end of each round.
    """
    announcer = _Announcer(emit)
    while True:
        emit({"round": request["round"], "unreached": announcer.announce(request)})
        line = sys.stdin.readline()
        if not line:
            return {}
        request |= json.loads(line)


class _Announcer:
    """The connections of the main node to the workers, kept from one round to the next."""

    def __init__(self, emit: Emit) -> None:
        load()
        self._emit = emit
        self._kept: dict[int, Sftp] = {}

    def announce(self, request: dict[str, Any]) -> dict[str, str]:
        """Do one round; return the cause for each node that could not be reached."""
        deadline = time.monotonic() + request["seconds"]
        unreached = {}
        with ThreadPoolExecutor(_NODES_AT_ONCE) as pool:
            nodes = {
                pool.submit(self._announce_one, node, request, deadline): node["index"]
                for node in request["nodes"]
            }
            for future in as_completed(nodes):
                error = future.exception()
                if error is None:
                    self._emit({"announced": nodes[future], "in": request["round"]})
                else:
                    unreached[str(nodes[future])] = str(error)
        return unreached

    def _announce_one(self, node: dict[str, Any], request: dict[str, Any], deadline: float) -> None:
        backoff = _FIRST_BACKOFF
        while True:
            seconds = max(0.5, min(request["timeout"], deadline - time.monotonic()))
            sftp = self._kept.pop(node["index"], None)
            again = sftp is not None
            try:
                if sftp is None:
                    where = (request["port"], request["user"], request["directory"])
                    sftp = Sftp(node["address"], *where, seconds)
                sftp.write(request["path"], request["data"].encode())
            except (AgentError, OSError):
                if sftp is not None:
                    sftp.close()
                if not again and time.monotonic() + backoff > deadline:
                    raise
            else:
                # Each costs a thread and a descriptor here, and a process there.
                if len(self._kept) < _NODES_AT_ONCE:
                    self._kept[node["index"]] = sftp
                else:
                    sftp.close()
                return
            if not again:
                time.sleep(backoff * random.uniform(0.5, 1.0))
                backoff = min(2 * backoff, _LONGEST_BACKOFF)
