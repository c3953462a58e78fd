"""The application's resource limits (ARCHITRAVE_ULIMITS): checked here, set where it starts."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from agent.core.errors import BAD_SETTINGS, AgentError
from agent.core.variables import ULIMITS

# A resource's number, its soft and its hard value (setrlimit(2)).
Rlimit = tuple[int, int, int]


def rlimits(limits: Sequence[tuple[str, int, int]]) -> list[Rlimit]:
    """Return limits by the numbers of their resources."""
    return [(_number(name), soft, hard) for name, soft, hard in limits]


def check(limits: Sequence[tuple[str, int, int]]) -> None:
    """Raise AgentError (78) for a limit that this process may not give to its children.

    Only a privileged process may raise a hard limit, and none that of open files above fs.nr_open.
    """
    import resource  # for jobs with limits only

    for name, _, hard in limits:
        number = _number(name)
        soft_now, hard_now = resource.getrlimit(number)
        if hard_now == -1 or 0 <= hard <= hard_now:
            continue
        try:
            resource.setrlimit(number, (soft_now, hard))
        except (OSError, ValueError) as error:
            cause = f"the hard limit of {name} is {hard_now} here"
            hint = f"start the container with --ulimit {name}={hard} (job definition: ulimits)"
            what = f"set {ULIMITS.name}={name}={words(hard)}"
            raise AgentError(what, cause, code=BAD_SETTINGS, hint=hint) from error
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(number, (soft_now, hard_now))


def stack(limits: Sequence[tuple[str, int, int]]) -> int:
    """Return the application's stack limit in bytes, -1 for unlimited."""
    import resource  # for a failure only

    set_here = [soft for name, soft, _ in limits if name == "stack"]
    return set_here[0] if set_here else resource.getrlimit(resource.RLIMIT_STACK)[0]


def words(value: int) -> str:
    """Return a limit as it is written."""
    return "unlimited" if value == -1 else str(value)


def _number(name: str) -> int:
    import resource  # for jobs with limits only

    return int(getattr(resource, f"RLIMIT_{name.upper()}"))
