"""Join the main node as a worker, send heartbeats, and take its messages."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from agent.core.errors import TRY_AGAIN, AgentError, HelperDied
from agent.core.model import Outcome
from agent.engine.helpers import Helper
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

# A line that breaks at once is not tried without a pause.
_AGAIN_SECONDS = 1.0


class WorkerMeeting(Meeting):
    """A worker's side: join the main node, give signs of life, wait for the end."""

    def __init__(
        self,
        *arguments: Any,
        node: dict[str, Any],
        output_dir: str,
        start_heartbeat_link: Callable[[Callable[[dict[str, Any]], None]], HeartbeatLink],
    ) -> None:
        super().__init__(*arguments)
        self.joined = False
        self.address = self.token = ""
        self.owner: int | None = None
        self.main_lost = False
        self.outcome: Outcome | None = None
        self.final: Outcome | None = None
        self.on_outcome: Callable[[Outcome], None] = lambda outcome: None
        self.go: dict[str, Any] | None = None
        self.stop: dict[str, Any] | None = None
        self.released = False
        self.on_stop: Callable[[dict[str, Any]], None] = lambda message: None
        self.on_signal: Callable[[int], None] = lambda number: None
        self._node = node
        self._own_dir = output_dir
        self._start_heartbeat_link = start_heartbeat_link
        self._helper: Helper | None = None
        self._heartbeat_link: HeartbeatLink | None = None
        self._starts, self._deadline = 0, 0.0
        self._put: set[str] = set()
        self._next_line = 0.0
        self._connected = self._closed = False
        self._line_cause = ""
        self._seen_at = 0.0
        self._seen_count = -1.0

    def join(self, seconds: float) -> None:
        """Start to join; `joined` becomes true, or `check` raises."""
        self._deadline = self._loop.clock() + seconds
        self._start_joining(seconds)
        self._open_line()

    def _start_joining(self, seconds: float) -> None:
        self._starts += 1
        request = self._ssh | {
            "address": self._topology.main_address,
            "seconds": seconds,
            "job": self._topology.job,
            "attempt": self._topology.attempt,
            "node": self._node,
            "output_dir": self._own_dir,
        }
        self._helper = self._start_helper("join", request, self._on_helper_message)

    def check(self) -> None:
        """See how joining goes; raise what it failed with. A helper that died gets one more try."""
        helper = self._helper
        if helper is None:
            return
        if self._connected and (line := self._open_line()) is not None and line.open:
            self._connected = not helper.ask({"do": "announce"})
        if not (helper.done or helper.result):
            return
        self._helper = None
        helper.close()
        what = f"join {self._topology.main_address}"
        try:
            greeting = helper.outcome()
        except HelperDied as error:
            left = self._deadline - self._loop.clock()
            if self._starts > 1 or left <= 0:
                raise AgentError(what, error.cause, code=TRY_AGAIN, hint=error.hint) from error
            self._log.warning("helper_retried", what=what, cause=error.cause)
            self._start_joining(left)
            return
        self.joined, self._seen_at = True, self._loop.clock()
        self.address = greeting["own_address"]
        self.owner = greeting.get("owner")
        self._log.info("main_joined", main=self._topology.main_address, address=self.address)
        self._beat()

    @property
    def _missed(self) -> bool:
        return self.joined and self.final is None and not self.main_lost and not self._has_left

    @property
    def _has_left(self) -> bool:
        """Return whether main has this node's part: then it waits for nothing more."""
        return f"{LEFT}/{self._topology.index}.json" in self._put

    def put(self, directory: str, message: dict[str, Any]) -> Callable[[], bool]:
        """Send a file about this node to the main node; return a test of whether it has arrived."""
        path = f"{directory}/{self._topology.index}.json"
        return self._put_order({"do": "put", "path": path, "data": json.dumps(message)})

    def put_file(self, directory: str, end: str, path: str) -> Callable[[], bool]:
        """Send a file of any length, as `put` does; this node gives signs of life meanwhile."""
        ready, target = f"{READY}/{self._topology.index}.json", self._topology.index
        order = {"do": "put_file", "path": f"{directory}/{target}{end}", "file": path}
        return self._put_order(order | {"ready": ready, "every": self._heartbeat / 2})

    def _put_order(self, order: dict[str, Any]) -> Callable[[], bool]:
        path = str(order["path"])

        def arrived() -> bool:
            return path in self._put

        def send() -> None:
            if arrived() or self.main_lost or self._closed:
                repeat.cancel()
            else:
                self._ask(order)

        repeat = self._loop.every(min(0.2, self._heartbeat), send)
        send()
        return arrived

    def _on_helper_message(self, message: dict[str, Any]) -> None:
        if "connected" in message:
            self._connected, self.token = True, message["token"]
            self._next_line = 0.0  # main can be reached: no need to wait
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
        """Ask main's sshd for one thing, on a new line if the old one is broken or doesn't answer.

        What can't be asked now is asked again by its caller.
        """
        line = self._heartbeat_link
        if line is not None and line.busy:
            patience = self._ssh["timeout"] if line.open else self._silence
            if self._loop.clock() - line.seen > patience:
                line.close("no answer in time")
        if self.joined and (line := self._open_line()) is not None:
            line.ask(order)

    def _open_line(self) -> HeartbeatLink | None:
        """Return the line, a new one if the old one is over; None while it is too soon for that."""
        line, now = self._heartbeat_link, self._loop.clock()
        if line is not None and not line.done:
            return line
        if now < self._next_line:
            return None
        if line is not None:
            self._line_cause = line.cause
            self._log.debug("heartbeat_link_broken", cause=line.cause)
        # Jitter: a thousand workers must not come back in the same instant.
        self._next_line = now + _AGAIN_SECONDS * random.uniform(0.5, 1.0)
        try:
            self._heartbeat_link = self._start_heartbeat_link(self._on_message)
        except (AgentError, OSError) as error:
            self._line_cause = str(error)
            self._log.warning("heartbeat_link_failed", cause=str(error))
            return None
        return self._heartbeat_link

    def _beat(self) -> None:
        if not self.joined or self.main_lost:
            return
        self._ask({"do": "beat", "path": f"{READY}/{self._topology.index}.json"})
        if self._loop.clock() - self._seen_at > self._silence:
            self.main_lost = True
            self._on_failure(
                AgentError(
                    f"lost the main node ({self._topology.main_address})",
                    f"no heartbeat for {self._silence:g} s"
                    + (f" ({self._line_cause})" if self._line_cause else ""),
                    code=TRY_AGAIN,
                    hint="see the main node's log; check for an out-of-memory kill",
                    event="main_lost",
                )
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
        """End the link too."""
        self._closed = True
        super().close()
        for process in (self._helper, self._heartbeat_link):
            if process is not None:
                process.close()
