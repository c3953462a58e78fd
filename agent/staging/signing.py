"""Sign requests to S3 with S3's own time, where this machine's clock is wrong. For helpers only."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

_SKEW = timedelta(minutes=5)


def with_its_clock(
    response: tuple[Any, dict[str, Any]] | None, attempts: int, **_: Any
) -> float | None:
    """Retry with S3's own time, if this machine's clock is too wrong for it.

    S3 refuses what is signed 15 minutes off (RequestTimeTooSkewed), and boto3 doesn't retry. An
    event handler of botocore's `needs-retry`: the seconds to wait before one more try, or None.
    """
    from botocore import auth

    code = response[1].get("Error", {}).get("Code") if response else None
    # The answer to HEAD has no body that could name the error.
    if response is None or attempts > 1 or code not in ("RequestTimeTooSkewed", "403"):
        return None
    date = response[1]["ResponseMetadata"]["HTTPHeaders"].get("date")
    offset = parsedate_to_datetime(date) - datetime.now(UTC) if date else timedelta()
    if abs(offset) < _SKEW:
        return None

    def now(remove_tzinfo: bool = True) -> datetime:
        return (datetime.now(UTC) + offset).replace(tzinfo=None if remove_tzinfo else UTC)

    auth.get_current_datetime = now
    return 0.0
