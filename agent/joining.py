"""Join the main node as a worker, give it signs of life, and hear from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from agent.errors import TRY_AGAIN, AgentError, HelperDied
from agent.helpers import Helper
from agent.model import Outcome
from agent.rendezvous import DONE, GO, LEFT, Meeting
from agent.roster import Refused


class WorkerMeeting(Meeting):
    """A worker's side: join the main node, give signs of life, wait for the end."""

    def __init__(self, *arguments: Any, node: dict[str, Any], output_dir: str) -> None:
        super().__init__(*arguments)
        self.joined = False
        self.address = ""
        self.main_lost = False
        self.outcome: Outcome | None = None
        self.final: Outcome | None = None
        self.on_outcome: Callable[[Outcome], None] = lambda outcome: None
        self.go: dict[str, Any] | None = None
        self._node = node
        self._own_dir = output_dir
        self._helper: Helper | None = None
        self._starts, self._deadline = 0, 0.0
        self._put: set[str] = set()
        self._asked = False
        self._heard = 0.0
        self._seen_count = -1.0

    def join(self, seconds: float) -> None:
        """Start to join; `joined` becomes true, or `check` raises."""
        self._deadline = self._loop.clock() + seconds
        self._start_link(seconds)

    def _start_link(self, seconds: float) -> None:
        self._starts += 1
        request = self._ssh | {
            "address": self._topology.main_address,
            "seconds": seconds,
            "job": self._topology.job,
            "attempt": self._topology.attempt,
            "node": self._node,
            "output_dir": self._own_dir,
        }
        self._asked = False
        self._helper = self._start_helper("join", request, self._hear)

    def check(self) -> None:
        """Raise what joining failed with; a helper that died is tried once more."""
        helper = self._helper
        if helper is None or not helper.done or self.joined:
            return
        what = f"join {self._topology.main_address}"
        try:
            helper.outcome()
            cause, hint = "the link ended", "look at the main node's log"
        except HelperDied as error:
            cause, hint = error.cause, error.hint
            left = self._deadline - self._loop.clock()
            if self._starts == 1 and left > 0:
                self._log.warning("trying once more", what=what, cause=cause)
                helper.close()
                self._start_link(left)
                return
        raise AgentError(what, cause, code=TRY_AGAIN, hint=hint)

    @property
    def _missed(self) -> bool:
        return self.joined and self.final is None and not self.main_lost and not self._has_left

    @property
    def _has_left(self) -> bool:
        """Tell whether main has this node's part: then it waits for nothing more."""
        return f"{LEFT}/{self._topology.index}.json" in self._put

    def put(self, directory: str, message: dict[str, Any]) -> Callable[[], bool]:
        """Send a file about this node to the main node; return what tells that it has arrived."""
        path = f"{directory}/{self._topology.index}.json"
        data = json.dumps(message)

        def arrived() -> bool:
            return path in self._put

        def send() -> None:
            if arrived() or self.main_lost:
                repeat.cancel()
            elif self._helper is not None and not self._asked:
                self._asked = self._helper.ask({"do": "put", "path": path, "data": data})

        repeat = self._loop.every(min(0.2, self._heartbeat), send)
        send()
        return arrived

    def _hear(self, message: dict[str, Any]) -> None:
        now = self._loop.clock()
        if "joined" in message:
            self.joined, self._heard = True, now
            self.address = message["joined"]["own_address"]
            self._log.info("joined", main=self._topology.main_address, address=self.address)
            return
        self._asked = False
        if "put" in message:
            self._put.add(message["put"])
            self._heard = now
        elif "beat" in message and message["beat"] != self._seen_count:
            self._seen_count = message["beat"]
            self._heard = now
        elif "log" in message:
            self._log.at(message["log"], message["event"], {"cause": message.get("cause")})

    def _beat(self) -> None:
        if not self.joined or self.main_lost or self._helper is None:
            return
        if self._helper.done:
            self._helper.close()
            try:
                self._start_link(self._silence)
            except (AgentError, OSError) as error:
                self._log.warning("cannot start the link again", cause=str(error))
        elif not self._asked:
            self._asked = self._helper.ask({"do": "beat"})
        if self._loop.clock() - self._heard > self._silence:
            self.main_lost = True
            self._on_failure(
                AgentError(
                    "keep the main node",
                    f"{self._topology.main_address} has been silent for {self._silence:g} s",
                    code=TRY_AGAIN,
                    hint="look at the main node's log; was it killed for memory?",
                )
            )

    def _take(self, kind: str, name: str, data: bytes) -> None:
        if kind == DONE and name in ("done", "final"):
            message = json.loads(data)
            if (message["job"], message["attempt"]) != (self._topology.job, self._topology.attempt):
                raise Refused("it is of another job or attempt")
            outcome = Outcome(**message["outcome"])
            if name == "final":
                self.final = outcome
                return
            self.outcome = outcome
            self.on_outcome(outcome)
        elif kind == GO and name == "go.json":
            self.go = json.loads(data)

    def close(self) -> None:
        """End the link too."""
        super().close()
        if self._helper is not None:
            self._helper.close()
