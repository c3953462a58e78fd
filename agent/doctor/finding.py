"""A finding of a check, and the time limit of a check."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, TypeVar

from agent.core.errors import AgentError, as_agent_error

PASS, WARN, FAIL, SKIP = "PASS", "WARN", "FAIL", "SKIP"

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Finding:
    """One line of the report; `code` is the exit code of a job for a FAIL, else 0."""

    verdict: str
    what: str
    hint: str = ""
    code: int = 0
    name: str = ""

    @classmethod
    def of(cls, error: AgentError) -> Finding:
        """Return the finding for an error."""
        return cls(FAIL, str(error), error.hint, error.code)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """A check by name: what it does, and after how many seconds it counts as hanging.

    `late` describes a hanging one: what could not be done, the exit code, the hint.
    """

    name: str
    action: Callable[[Subject], Finding | list[Finding]]
    seconds: float
    late: tuple[str, int, str]

    def on(self, subject: Subject) -> list[Finding] | None:
        """Return its finding, None when it hangs; an AgentError is a FAIL. Raises nothing."""
        found: list[Finding] = []

        def act() -> None:
            try:
                answer = self.action(subject)
                found.extend(answer if isinstance(answer, list) else [answer])
            except Exception as error:
                found.append(Finding.of(as_agent_error(error)))

        # A thread, since what hangs (a dead NFS, a silent endpoint) can only be abandoned.
        thread = threading.Thread(target=act, daemon=True)
        thread.start()
        thread.join(self.seconds)
        if thread.is_alive():
            return None
        return [replace(one, name=self.name) for one in found]

    @property
    def hanging(self) -> Finding:
        """Return the finding that it hangs."""
        what, code, hint = self.late
        error = AgentError(what, f"no answer in {self.seconds:g} s", code=code, hint=hint)
        return replace(Finding.of(error), name=self.name)


def first_code(findings: Sequence[Finding]) -> int:
    """Return the exit code of the first FAIL, 0 if there is none."""
    return next((one.code for one in findings if one.verdict == FAIL), 0)
