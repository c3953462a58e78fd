"""Write the exit code where a surrounding program looks for it."""

from __future__ import annotations

import os

from agent.core.errors import os_reason
from agent.engine.files import replace_or_write


def put_exit_code(path: str, code: int) -> str:
    """Write an exit code as a number; return the cause if it can't be written, else ""."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        replace_or_write(path, f"{code}\n".encode())
    except OSError as error:
        return os_reason(error)
    return ""
