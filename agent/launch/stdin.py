"""The application's standard input: a file (ARCHITRAVE_STDIN), or nothing."""

from __future__ import annotations

import os
import stat

from agent.core.errors import BAD_SETTINGS, AgentError, os_reason
from agent.core.variables import STDIN


def stdin_file(path: str, directory: str) -> str:
    """Return the path of a file, relative to a directory, and /dev/null where `path` is empty.

    Raises AgentError (78) for what is no file or can't be read. A pipe is refused: without a writer
    to open it would take for ever.
    """
    if not path:
        return os.devnull
    found = os.path.join(directory, path)
    try:
        mode = os.stat(found).st_mode
        if stat.S_ISREG(mode) or stat.S_ISCHR(mode):
            os.close(os.open(found, os.O_RDONLY))
            return found
        cause = "is a directory" if stat.S_ISDIR(mode) else "not a regular file"
    except OSError as error:
        cause = os_reason(error)
    hint = f"check {STDIN.name}, and that private.7z has it"
    raise AgentError(f"read {found}", cause, code=BAD_SETTINGS, hint=hint)
