"""Join the main node as a worker, send heartbeats, and take its messages."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from agent.core.errors import TRY_AGAIN, AgentError, HelperDied, cause_of
from agent.core.model import FailureKind, Node, Outcome
from agent.engine.helpers import Helper, Retry
from agent.multinode.heartbeat_link import HeartbeatLink
from agent.multinode.meeting import (
    DONE,
    GO,
    GO_NAME,
    LEFT,
    READY,
    RELEASE_NAME,
    SIGNAL_NAME,
    STOP_NAME,
    Meeting,
)
from agent.multinode.roster import Refused

# A link that breaks at once is reopened after a pause only.
_RECONNECT_SECONDS = 1.0


class WorkerMeeting(Meeting):
    """A worker's side: join the main node, send heartbeats, wait for the outcome."""

    def __init__(
        self,
        *arguments: Any,
        node: Node,
        start_link: Callable[[Callable[[dict[str, Any]], None]], HeartbeatLink],
    ) -> None:
        super().__init__(*arguments)
        self.joined = False
        self.address = ""
        self.owner: int | None = None
        self.outcome: Outcome | None = None
        self.final: Outcome | None = None
        self.on_outcome: Callable[[Outcome], None] = lambda outcome: None
        self.go: dict[str, Any] | None = None
        self.stop: dict[str, Any] | None = None
        self.released = False
        self.on_stop: Callable[[dict[str, Any]], None] = lambda message: None
        self.on_signal: Callable[[int], None] = lambda number: None
        # Called with the attempt's token before this node claims its output directory.
        self.on_token: Callable[[str], None] = lambda token: None
        self._main_lost = False
        self._node = node
        self._start_link = start_link
        self._helper: Helper | None = None
        self._link: HeartbeatLink | None = None
        self._put: set[str] = set()
        self._next_link_at = 0.0
        self._connected = self._closed = False
        self._link_cause = ""
        self._seen_at = 0.0
        self._seen_count = -1.0

    def join(self, seconds: float, retry: Retry) -> Iterator[Callable[[], object]]:
        """Join within so many seconds; yield each condition that has to be waited for.

        This node's own link has to be open before it is announced: heartbeats begin at once.
        Raises AgentError (75, 77, 78) when it can't join; a helper that died is restarted once.
        """
        what = f"join {self._topology.main_address}"
        deadline = self._loop.clock() + seconds
        while True:
            helper = self._start_joining(deadline - self._loop.clock())
            yield from self._announcing(helper)
            helper.close()
            try:
                greeting = helper.outcome()
                break
            except HelperDied as error:
                if deadline <= self._loop.clock() or not retry.again(error):
                    raise AgentError(what, error.cause, code=TRY_AGAIN, hint=error.hint) from error
        self.joined, self._seen_at = True, self._loop.clock()
        self.address = greeting["own_address"]
        self.owner = greeting.get("owner")
        self._log.info("main_joined", main=self._topology.main_address, address=self.address)
        self._beat()

    def _announcing(self, helper: Helper) -> Iterator[Callable[[], object]]:
        """Let the helper announce this node as soon as it has connected and the link is open."""

        def finished() -> bool:
            return helper.done or helper.result is not None

        while not finished():
            if not self._connected:
                yield lambda: self._connected or finished()
            elif (link := self._open_link()) is not None and link.open:
                self._connected = False
                helper.ask({"do": "announce"})
            else:
                yield lambda: finished() or self._link_is_ready()

    def _link_is_ready(self) -> bool:
        """Return whether the link is open, or can be opened again."""
        if self._link is not None and not self._link.done:
            return self._link.open
        return self._loop.clock() >= self._next_link_at

    def _start_joining(self, seconds: float) -> Helper:
        node = self._node
        request = self._ssh | {
            "address": self._topology.main_address,
            "seconds": seconds,
            "job": self._topology.job,
            "attempt": self._topology.attempt,
            "node": {"index": node.index, "address": node.address, "slots": node.slots}
            | {"version": node.version},
            "output_dir": self._output_dir,
        }
        self._connected = False
        self._helper = self._start_helper("join", request, self._on_helper_message)
        self._open_link()
        return self._helper

    @property
    def _is_awaited(self) -> bool:
        return self.joined and self.final is None and not self._main_lost and not self._has_left

    @property
    def _has_left(self) -> bool:
        """Return whether main has this node's record: then it waits for nothing more."""
        return f"{LEFT}/{self._topology.index}.json" in self._put

    def put(self, directory: str, message: dict[str, Any]) -> Callable[[], bool]:
        """Send a file about this node to the main node; return a test of whether it has arrived."""
        path = f"{directory}/{self._topology.index}.json"
        return self._put_order({"do": "put", "path": path, "data": json.dumps(message)})

    def put_file(self, directory: str, end: str, path: str) -> Callable[[], bool]:
        """Send a file of any length, as `put` does; this node sends heartbeats meanwhile."""
        ready, target = f"{READY}/{self._topology.index}.json", self._topology.index
        order = {"do": "put_file", "path": f"{directory}/{target}{end}", "file": path}
        return self._put_order(order | {"ready": ready, "every": self._heartbeat / 2})

    def _put_order(self, order: dict[str, Any]) -> Callable[[], bool]:
        path = str(order["path"])

        def arrived() -> bool:
            return path in self._put

        def send() -> None:
            if arrived() or self._main_lost or self._closed:
                repeat.cancel()
            else:
                self._ask(order)

        repeat = self._loop.every(min(0.2, self._heartbeat), send)
        send()
        return arrived

    def _on_helper_message(self, message: dict[str, Any]) -> None:
        if "connected" in message:
            self._connected = True
            self.on_token(message["token"])
            self._next_link_at = 0.0  # main can be reached: no need to wait
            return
        self._log.at(message["log"], message["event"], {"cause": message.get("cause")})

    def _on_message(self, message: dict[str, Any]) -> None:
        if "put" in message:
            self._put.add(message["put"])
            self._seen_at = self._loop.clock()
        elif message["beat"] != self._seen_count:
            self._seen_count = message["beat"]
            self._seen_at = self._loop.clock()

    def _ask(self, order: dict[str, Any]) -> None:
        """Send main's sshd one request, on a new link if the old one is broken or doesn't answer.

        A request that can't be sent now is sent again by its caller.
        """
        link = self._link
        if link is not None and link.busy:
            patience = self._ssh["timeout"] if link.open else self._silence
            if self._loop.clock() - link.seen > patience:
                link.close("no answer in time")
        if self.joined and (link := self._open_link()) is not None:
            link.ask(order)

    def _open_link(self) -> HeartbeatLink | None:
        """Return the link, a new one if the old one is over; None while that is too early."""
        link, now = self._link, self._loop.clock()
        if link is not None and not link.done:
            return link
        if now < self._next_link_at:
            return None
        if link is not None:
            self._link_cause = link.cause
            self._log.debug("heartbeat_link_broken", cause=link.cause)
        # Jitter: a thousand workers must not reconnect in the same instant.
        self._next_link_at = now + _RECONNECT_SECONDS * random.uniform(0.5, 1.0)
        try:
            self._link = self._start_link(self._on_message)
        except (AgentError, OSError) as error:
            self._link_cause = cause_of(error)
            self._log.warning("heartbeat_link_failed", cause=self._link_cause)
            return None
        return self._link

    def _beat(self) -> None:
        if not self.joined or self._main_lost:
            return
        self._ask({"do": "beat", "path": f"{READY}/{self._topology.index}.json"})
        if self._loop.clock() - self._seen_at > self._silence:
            self._main_lost = True
            self._on_failure(
                AgentError(
                    f"lost the main node ({self._topology.main_address})",
                    f"no heartbeat for {self._silence:g} s"
                    + (f" ({self._link_cause})" if self._link_cause else ""),
                    code=TRY_AGAIN,
                    hint="see the main node's log; check for an out-of-memory kill",
                    event="main_lost",
                ),
                FailureKind.MAIN_LOST,
            )

    def _take(self, kind: str, name: str, data: bytes) -> None:
        if kind == DONE and name in ("done", "final"):
            message = json.loads(data)
            if (message["job"], message["attempt"]) != (self._topology.job, self._topology.attempt):
                raise Refused("from another job or attempt")
            outcome = Outcome(**message["outcome"])
            if name == "final":
                self.final = outcome
                return
            self.outcome = outcome
            self.on_outcome(outcome)
        elif kind == GO and name == GO_NAME:
            self.go = json.loads(data)
        elif kind == GO and name == STOP_NAME:
            self.stop = json.loads(data)
            self.on_stop(self.stop)
        elif kind == GO and name == SIGNAL_NAME:
            self.on_signal(int(json.loads(data)["signal"]))
        elif kind == GO and name == RELEASE_NAME:
            self.released = True

    def close(self) -> None:
        """Close the link too."""
        self._closed = True
        super().close()
        for process in (self._helper, self._link):
            if process is not None:
                process.close()
