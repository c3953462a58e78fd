"""Connect the nodes before the run, and release them after it: the main node's side."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from typing import Any

from agent.core.errors import TRY_AGAIN, AgentError, os_reason
from agent.core.model import FailureKind, Node, NodeFiles, Outcome
from agent.engine.files import replace
from agent.engine.helpers import Helper
from agent.multinode.meeting import (
    DONE,
    ENDED,
    LEAVING,
    LEFT,
    LIST_END,
    READY,
    STOPPED,
    Meeting,
)
from agent.multinode.roster import Refused, Roster, index_of

_ANNOUNCE_SECONDS = 20.0
# After the outcome is announced: a worker that sends heartbeats but can't be reached is lost.
_UNREACHED_SECONDS = 30.0


class MainMeeting(Meeting):
    """The main node's side: accept the workers, watch their heartbeats, announce the outcome."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.token = os.urandom(8).hex()
        self.roster = Roster(self._topology, self._silence)
        self.records: dict[int, dict[str, Any]] = {}
        self.exited: dict[int, Outcome] = {}
        self.stopped: set[int] = set()
        self.lost: set[int] = set()
        self.ending = False
        self.announced: set[int] = set()
        # What each worker has sent when it joined.
        self._ready: dict[int, bytes] = {}
        self.unreached: dict[str, str] = {}
        self._message: dict[str, str] = {}
        self._seconds = 0.0
        self._announcer: Helper | None = None
        self._round, self._rounds_done = 0, 0
        self.on_exited: Callable[[int, Outcome], None] = lambda index, outcome: None
        self._greeting = os.path.join(self._batch, "main.json")
        self._count = 0
        greeting = {
            "job": self._topology.job,
            "attempt": self._topology.attempt,
            "output_dir": self._output_dir,
            # Of this run only: a volume may have files of an earlier one.
            "token": self.token,
        }
        self._greeting_text = json.dumps(greeting)
        self._write_greeting()
        self._unreached_since = math.inf

    def _write_greeting(self) -> None:
        # A worker may read it at any time, and mistake half of it for another job's.
        replace(self._greeting, self._greeting_text.encode())

    def restore(self) -> None:
        """Restore the files that workers read and touch, too."""
        super().restore()
        if not os.path.exists(self._greeting):
            self._write_greeting()
        for index in self.roster.nodes.keys() - self.records.keys() - self.lost:
            path = os.path.join(self._batch, READY, f"{index}.json")
            if not os.path.exists(path):
                replace(path, self._ready[index])

    @property
    def nodes(self) -> list[Node]:
        """Return the workers that have joined, by index."""
        return [node for _, node in sorted(self.roster.nodes.items())]

    def missing(self) -> AgentError:
        """Return the error that names the missing workers."""
        names = ", ".join(str(index) for index in self.roster.missing)
        return AgentError(
            f"connect {self._topology.count} nodes",
            f"worker {names} did not join in time",
            code=TRY_AGAIN,
            hint="see their logs; raise ARCHITRAVE_JOIN_TIMEOUT_SECONDS if they start late",
        )

    @property
    def _is_awaited(self) -> bool:
        return bool(self.roster.nodes)

    def computing(self) -> set[int]:
        """Return the workers that have not reported yet that their ranks have exited."""
        return self.roster.nodes.keys() - self.stopped - self.records.keys() - self.lost

    def awaited(self) -> list[int]:
        """Return the workers whose record is missing and that are not lost."""
        return sorted(self.roster.nodes.keys() - self.records.keys() - self.lost)

    def seen_since(self, when: float) -> bool:
        """Return whether every worker has sent a heartbeat since then, or is lost."""
        present = self.roster.nodes.keys() - self.lost - self.records.keys()
        return all(self.roster.seen(index) >= when for index in present)

    def announce(
        self, directory: str, name: str, message: dict[str, Any], seconds: float = _ANNOUNCE_SECONDS
    ) -> None:
        """Put a file on every worker, all at once; `announcing` until they have it or the bound.

        A worker that can't be reached is tried again for so many seconds.
        """
        self.announced = set()
        self._seconds = min(seconds, 2 * self._silence)
        self._message = {"path": f"{directory}/{name}", "data": json.dumps(message)}
        self._announce([node for node in self.nodes if node.index not in self.lost])

    def announce_end(self, name: str, outcome: Outcome) -> None:
        """Announce the outcome to every worker; from now on they may exit."""
        self.ending = True
        topology = self._topology
        message = {"job": topology.job, "attempt": topology.attempt, "outcome": outcome.to_json()}
        self.announce(DONE, name, message)

    def announce_again(self) -> None:
        """Announce again to workers that were not reached, or joined after the announcement.

        One that sends heartbeats but can't be reached for so long is lost.
        """
        now = self._loop.clock()
        left = set(self.awaited()) - self.announced
        self._unreached_since = min(self._unreached_since, now) if left else math.inf
        if now - self._unreached_since > max(_UNREACHED_SECONDS, 2 * self._silence):
            for index in sorted(left):
                self._lose_unreached(index)
        unreached = self.awaited()
        if not self.announcing and set(unreached) - self.announced:
            self._announce(
                [self.roster.nodes[index] for index in unreached if index not in self.announced]
            )

    def _lose_unreached(self, index: int) -> None:
        self.roster.leave(index)
        self.lost.add(index)
        cause = f"cannot send it the outcome: {self.unreached.get(str(index), 'no answer')}"
        what = f"lost worker {index} ({self.roster.nodes[index].address})"
        hint = f"see the log of worker {index}"
        self._on_failure(
            AgentError(what, cause, code=TRY_AGAIN, hint=hint, event="worker_lost"),
            FailureKind.PEER,
        )

    def warm(self) -> None:
        """Start the announcing helper before it is needed: its imports take time."""
        self._message = {"path": "", "data": ""}
        self._announce([])

    def cool(self) -> None:
        """Stop it: a long run must not occupy its memory."""
        if self._announcer is not None and not self.ending and not self.announcing:
            self._announcer.close()

    def _announce(self, nodes: list[Node]) -> None:
        self.unreached = {}
        self._round += 1
        request = self._message | {
            "round": self._round,
            "nodes": [{"index": node.index, "address": node.address} for node in nodes],
            "seconds": self._seconds,
        }
        if self._announcer is None or self._announcer.done or not self._announcer.ask(request):
            if self._announcer is not None:
                self._announcer.close()
            self._announcer = self._start_helper(
                "announce", self._ssh | request, self._on_announced
            )

    def _on_announced(self, message: dict[str, Any]) -> None:
        if "announced" in message:
            if message["in"] == self._round:  # another message may have been announced meanwhile
                self.announced.add(message["announced"])
        elif "round" in message:
            self.unreached, self._rounds_done = message["unreached"], message["round"]

    @property
    def announcing(self) -> bool:
        """Return whether an announcement to the workers is still on its way."""
        waiting = self._rounds_done < self._round
        return waiting and self._announcer is not None and not self._announcer.done

    def _take(self, kind: str, name: str, data: bytes) -> None:
        now = self._loop.clock()
        index = index_of(name)
        if kind == READY:
            if index in self.lost or index in self.records:
                return  # a late heartbeat of a worker that is not expected any more
            if not data and index in self._ready:
                return  # what was removed, and is being restored
            node = self.roster.offer(name, data, now)
            assert index is not None
            self._ready[index] = data
            if node is not None:
                joined = len(self.roster.nodes) + 1
                self._log.info(
                    "worker_joined",
                    worker=node.index,
                    address=node.address,
                    slots=node.slots,
                    joined=joined,
                    nodes=self._topology.count,
                )
        elif kind in (LEFT, ENDED, LEAVING, STOPPED):
            if index is None or index not in self.roster.nodes:
                raise Refused(f"{name}: no such worker has joined")
            fields = json.loads(data)
            if not isinstance(fields, dict):
                raise Refused(f"{name}: not a JSON object")
            if kind == ENDED:
                self.exited[index] = Outcome(**fields)
                self.on_exited(index, self.exited[index])
            elif kind == LEAVING:
                self._leaves(index, fields)
            elif kind == STOPPED:
                self.stopped.add(index)
            else:
                self._take_record(index, fields)

    def _take_record(self, index: int, fields: dict[str, Any]) -> None:
        record, failure = fields["record"], fields["failure"]
        if record["index"] != index or not isinstance(record["files"], list):
            raise Refused(f"{index}.json: the record of another node")
        self.roster.leave(index)
        folder = os.path.join(self._batch, LEFT)
        # Not its curves: a thousand nodes' take 200 MiB.
        files = NodeFiles(
            os.path.join(folder, f"{index}.json"),
            os.path.join(folder, f"{index}{LIST_END}"),
            complete=not record.get("failed"),
        )
        self.records[index] = {**fields, "record": None, "files": files}
        count = record.get("file_count", len(record["files"]))
        self._log.info("record_received", worker=index, files=count)
        if failure:
            self._leaves(index, failure)

    def _leaves(self, index: int, failure: dict[str, Any]) -> None:
        if not self.ending:
            hint = f"see the log of worker {index}"
            error = AgentError.from_json(failure)
            what = f"worker {index} failed"
            self._on_failure(
                AgentError(what, str(error), code=error.code, hint=hint, event="worker_failed"),
                FailureKind.PEER,
            )

    def _beat(self) -> None:
        # A count and not a time: a worker looks for a change, since clocks differ.
        self._count += 1
        try:
            os.utime(self._greeting, (self._count, self._count))
        except OSError as error:
            self._log.warning("heartbeat_failed", cause=os_reason(error))
        for index in self.roster.silent(self._loop.clock()):
            self.roster.leave(index)
            self.lost.add(index)
            address = self.roster.nodes[index].address
            self._on_failure(
                AgentError(
                    f"lost worker {index} ({address})",
                    f"no heartbeat for {self._silence:g} s",
                    code=TRY_AGAIN,
                    hint=f"see the log of worker {index}; check for an out-of-memory kill",
                    event="worker_lost",
                ),
                FailureKind.PEER,
            )

    def close(self) -> None:
        """Stop the announcing helper too."""
        super().close()
        if self._announcer is not None:
            self._announcer.close()
