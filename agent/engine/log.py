"""Log events with structlog: as text on a terminal, as JSON lines everywhere else."""

from __future__ import annotations

import time

from agent.core.events import message
from agent.engine.lazy import import_lazily, import_without

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
# Shorter ones would blot out ordinary text.
_MIN_SECRET = 4


class Log:
    """Events of `core.events` with the job's context; never raises, never shows a secret.

    structlog is imported by `open`, so that an application can be started first; what was
    logged before is kept, with its time.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        *,
        console: bool = False,
        level: str = "info",
        secrets: tuple[str, ...] = (),
    ) -> None:
        self.context: dict[str, Any] = {}
        self._write = write
        self._console = console
        self._min_level = _LEVELS[level]
        self._secrets = [secret for secret in secrets if len(secret) >= _MIN_SECRET]
        self._waiting: list[tuple[str, str, dict[str, Any]]] = []
        self._logger: Any = None

    def open(self) -> None:
        """Import structlog and write what was logged before."""
        if self._logger is None:
            self._logger = _make_logger(self._write, self._console, self._min_level)
            waiting, self._waiting = self._waiting, []
            for level, event, fields in waiting:
                self._emit(level, event, fields)

    def debug(self, event: str, /, **fields: Any) -> None:
        """Log an event for developers."""
        self.at("debug", event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        """Log what happened."""
        self.at("info", event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        """Log what went wrong and was handled."""
        self.at("warning", event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        """Log what makes the job fail."""
        self.at("error", event, fields)

    def at(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """Log an event, by its id, at a level given by name."""
        fields = {"timestamp": _timestamp(), **self.context, **fields}
        fields = {name: value for name, value in fields.items() if value is not None}
        if self._logger is None:
            self._waiting.append((level, event, fields))
        else:
            self._emit(level, event, fields)

    def _emit(self, level: str, event: str, fields: dict[str, Any]) -> None:
        try:
            fields = self.scrub(fields)
            text, shown = message(event, fields)
            text, lines = self.scrub(text), []
            if self._console:
                # On a terminal a list of lines is shown as lines.
                lines = fields.pop("last_lines", [])
                rest = {name: value for name, value in fields.items() if name not in shown}
                getattr(self._logger, level)(text, **rest)
            else:
                getattr(self._logger, level)(self.scrub(event), message=text, **fields)
            if self._min_level <= _LEVELS[level]:
                for line in lines:
                    self._write(f"    | {line}\n".encode("utf-8", "replace"))
        except Exception as error:  # a log line must not end a job
            self._write(f"cannot log {type(error).__name__}\n".encode())

    def scrub(self, value: Any) -> Any:
        """Return the value with every secret in it replaced."""
        if isinstance(value, str):
            for secret in self._secrets:
                value = value.replace(secret, "***")
            return value
        if isinstance(value, dict):
            return {self.scrub(key): self.scrub(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.scrub(item) for item in value]
        return value


def _timestamp() -> str:
    """Return the time in ISO 8601 format, in UTC, with milliseconds."""
    now = time.time()
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    return f"{seconds}.{int(now * 1000) % 1000:03}Z"


class _Writer:
    """What structlog prints to."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    def msg(self, text: str) -> None:
        self._write(text.encode("utf-8", "replace") + b"\n")

    debug = info = warning = error = msg


def _make_logger(write: Callable[[bytes], None], console: bool, min_level: int) -> Any:
    import_lazily("asyncio")
    # rich would show tracebacks in colour, which are never printed here: 0.1 s.
    structlog = import_without("structlog", "rich")
    renderer: Any
    if console:
        renderer = structlog.dev.ConsoleRenderer(colors=True, pad_event_to=0)
    else:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    return structlog.wrap_logger(
        _Writer(write),
        processors=[structlog.processors.add_log_level, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(min_level),
        context_class=dict,
        cache_logger_on_first_use=True,
    )
