"""Keep the /tmp of a Lambda environment as it was before the first call."""

from __future__ import annotations

import json
import os

from agent.core.errors import NO_PERMISSION, AgentError, os_reason
from agent.engine.files import replace
from agent.job.directories import remove


class Scratch:
    """A directory whose initial content stays and whose later content is removed.

    The initial content is listed in the file `note` in it: when Lambda kills a call at its
    deadline, it kills the agent too, and the next agent finds /tmp as that call left it. Raises
    AgentError (77) where nothing can be written.
    """

    def __init__(self, directory: str, note: str) -> None:
        self._directory = directory
        self._note = note
        try:
            for path in (directory, os.path.dirname(note)):
                os.makedirs(path, exist_ok=True)
            self._kept = self._noted()
            self._write_note()
        except OSError as error:
            hint = "make it writable: docker run --tmpfs /tmp"
            what = f"write to {directory}"
            raise AgentError(what, os_reason(error), code=NO_PERMISSION, hint=hint) from error

    def empty(self) -> list[str]:
        """Remove what was added later; return the paths that could not be removed."""
        for name in self._new_names():
            remove(os.path.join(self._directory, name))
        self._write_note()
        return [os.path.join(self._directory, name) for name in self._new_names()]

    def _noted(self) -> set[str]:
        """Return the names in the note; the first time, what is there.

        If a note can't be read, nothing is known to be the image's, and nothing that a call has
        left may be seen by the next one.
        """
        own = os.path.basename(self._note)
        try:
            with open(self._note, encoding="utf-8") as file:
                names = json.load(file)
        except FileNotFoundError:
            return {*os.listdir(self._directory), own}
        except ValueError:
            return {own}
        known = isinstance(names, list) and all(isinstance(name, str) for name in names)
        return {*names, own} if known else {own}

    def _write_note(self) -> None:
        """Write it each time: an application may empty the whole directory."""
        replace(self._note, json.dumps(sorted(self._kept)).encode())

    def _new_names(self) -> list[str]:
        return sorted(set(os.listdir(self._directory)) - self._kept)
