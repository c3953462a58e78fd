"""Keep the /tmp of a Lambda environment as it was before the first call."""

from __future__ import annotations

import json
import os

from agent.errors import NO_PERMISSION, AgentError, why
from agent.runtime_dir import remove


class Scratch:
    """A directory whose first content stays and whose later content goes.

    What was there first is written to the file `note` in it: a call that Lambda ended at its
    deadline takes the agent along, and the next agent finds /tmp as that call left it. Raises
    AgentError (77) where nothing can be written.
    """

    def __init__(self, directory: str, note: str) -> None:
        self._directory = directory
        try:
            os.makedirs(directory, exist_ok=True)
            self._kept = self._noted(note)
        except OSError as error:
            hint = "make it writable: docker run --tmpfs /tmp"
            what = f"write to {directory}"
            raise AgentError(what, why(error), code=NO_PERMISSION, hint=hint) from error

    def empty(self) -> list[str]:
        """Remove what came later; return the paths that could not be removed."""
        for name in self._later():
            remove(os.path.join(self._directory, name))
        return [os.path.join(self._directory, name) for name in self._later()]

    def _noted(self, note: str) -> set[str]:
        """Return the names that are in the note; the first time, what is there, and note it."""
        try:
            with open(note, encoding="utf-8") as file:
                return set(json.load(file))
        except (FileNotFoundError, ValueError):
            names = {*os.listdir(self._directory), os.path.basename(note)}
            with open(note, "w", encoding="utf-8") as file:
                json.dump(sorted(names), file)
            return names

    def _later(self) -> list[str]:
        return sorted(set(os.listdir(self._directory)) - self._kept)
