"""The agent's errors and their exit codes.

AgentError        an action failed: what, why, what to do next, and the job's code
+-- HelperDied    a helper process exited without an answer: retried once
`-- NotThere      an S3 object does not exist: an alternative may
"""

# After sysexits.h, so that a Batch retry strategy can act on them.
USAGE = 64
BAD_ARCHIVE = 65
NO_OBJECT = 66
S3_UNREACHABLE = 69
BUG = 70
OS_ERROR = 71
CANNOT_WRITE = 73
TRY_AGAIN = 75
NO_PERMISSION = 77
BAD_SETTINGS = 78

# The codes that a shell and timeout(1) use.
TIME_LIMIT = 124
NOT_EXECUTABLE = 126
NOT_FOUND = 127


class AgentError(Exception):
    """An action failed: `cannot <what>: <cause>`.

    With an `event` of its own (an id of `core.events`) it says what happened: `<what>: <cause>`.
    """

    def __init__(
        self, what: str, cause: str, *, code: int, hint: str = "", event: str = "error"
    ) -> None:
        super().__init__(f"cannot {what}: {cause}" if event == "error" else f"{what}: {cause}")
        self.what = what
        self.cause = cause
        self.code = code
        self.hint = hint
        self.event = event

    def to_json(self) -> dict[str, object]:
        """Return the fields, as a helper process sends them."""
        fields = {"what": self.what, "cause": self.cause, "code": self.code, "hint": self.hint}
        return fields | {"event": self.event}

    def fields(self) -> dict[str, object]:
        """Return the fields of its log event."""
        fields = {"what": self.what, "cause": self.cause, "code": self.code}
        return fields | {"hint": self.hint or None}

    @classmethod
    def from_json(cls, fields: dict[str, object]) -> "AgentError":
        """Make the error again from what a helper process sent."""
        code = fields.get("code")
        return cls(
            str(fields.get("what")),
            str(fields.get("cause")),
            code=code if isinstance(code, int) else BUG,
            hint=str(fields.get("hint", "")),
            event=str(fields.get("event", "error")),
        )


def as_agent_error(error: Exception) -> AgentError:
    """Return an error as the agent's own kind; an unexpected one is a bug."""
    if isinstance(error, AgentError):
        return error
    hint = "report it with the traceback from the log"
    return AgentError("continue", f"{type(error).__name__}: {error}", code=BUG, hint=hint)


def cause_of(error: Exception) -> str:
    """Return only the cause: the message around it names what failed."""
    if isinstance(error, AgentError):
        return error.cause
    return os_reason(error) if isinstance(error, OSError) else str(error)


def shorten(text: str, max_length: int = 200) -> str:
    """Return a text, shortened to `max_length`, so that an error stays one line."""
    return text if len(text) <= max_length else f"{text[:max_length]}…"


def os_reason(error: OSError) -> str:
    """Return the system's text for an error, as the end of a sentence."""
    return (error.strerror or str(error)).lower()


def bad(name: str, value: str, cause: str, hint: str, code: int = BAD_SETTINGS) -> AgentError:
    """Return the error for an invalid value of a variable."""
    return AgentError(f"use {name}={shorten(repr(value))}", cause, code=code, hint=hint)


class HelperDied(AgentError):
    """A helper process exited without an answer."""


class NotThere(AgentError):
    """An S3 object does not exist."""
