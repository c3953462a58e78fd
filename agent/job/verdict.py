"""Decide the job's outcome: the only module that makes its exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agent.core.errors import AgentError
from agent.core.model import AGENT, NodeFiles, Outcome


class Verdict:
    """The job's outcome: the first failure decides.

    `failure` is the first thing that went wrong on the agent's side. `reported` says that the log
    names the job's cause already, which may also be the application's own failure.
    """

    def __init__(self) -> None:
        self.failure: AgentError | None = None
        self.reported = False
        self._outcome: Outcome | None = None

    @property
    def outcome(self) -> Outcome:
        """Return the job's outcome, as far as it is known."""
        assert self._outcome is not None
        return self._outcome

    @property
    def code(self) -> int:
        """Return the job's exit code."""
        return self.outcome.code

    def fail(self, error: AgentError) -> bool:
        """Note a failure; return whether it is the first one."""
        first = self.failure is None
        self.failure = self.failure or error
        return first

    def decide(self, outcome: Outcome) -> None:
        """Note the application's outcome; on a worker the job's, as the main node sends it."""
        self._outcome = outcome

    def abort(self, error: AgentError) -> None:
        """Abort the work before the application's outcome is known: the first failure decides."""
        self.fail(error)
        self._outcome = outcome_of(self.failure or error)

    def degrade(self, error: AgentError) -> None:
        """Note a failure after the application has exited: it counts if nothing failed before."""
        self.fail(error)
        if self._outcome is None or not self._outcome.code:
            self._outcome = outcome_of(error)

    def explain(self, cause: str, hint: str, *, out_of_memory: bool) -> None:
        """Set the cause of a code that is known already."""
        self._outcome = replace(self.outcome, cause=cause, hint=hint, out_of_memory=out_of_memory)


def outcome_of(error: AgentError) -> Outcome:
    """Return the outcome for a failure of the agent's own."""
    return Outcome(error.code, AGENT, cause=str(error), hint=error.hint)


def complete(nodes: Mapping[int, NodeFiles], count: int) -> bool:
    """Return whether every node's results are stored, so that there is a manifest."""
    return len(nodes) == count and all(one.complete for one in nodes.values())
