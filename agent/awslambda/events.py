"""Parse the event of a Lambda function: unwrap its carrier, refuse what is unknown.

Known are a custom event (`params`, `input`, `output`, `env`), and what AWS sends: S3's
notification, by itself or in a message of SQS or SNS or in SNS in SQS; EventBridge's of an object
that was created; and the body of a function URL's or an API Gateway's request, with any of these.
The shapes are those of the AWS Lambda developer guide, "Invoking Lambda with events from other AWS
services", and of the Amazon S3 user guide, "Event message structure".
"""

from __future__ import annotations

import base64
import binascii
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

from agent.core.errors import USAGE, AgentError, shorten

OWN = ("params", "input", "output", "env")
KNOWN = (
    "send {} for the default job, an object with params, input, output or env, or an S3 event"
    " (also by SQS, SNS, EventBridge); a request's body may be any of these"
)
TEST_NOTE = "S3 tests its notification: nothing to run"
FOLDER_NOTE = "a folder was made in the bucket: nothing to run"
# SNS in SQS is nested three deep, a request's body one deeper.
_MAX_DEPTH = 6


@dataclass(frozen=True)
class Opened:
    """The content of an event: an object on S3 (bucket, key), or a custom event.

    With a `note` there is nothing to run.
    """

    object: tuple[str, str] | None = None
    own: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def open_event(text: str) -> Opened:
    """Parse an event as received; raise AgentError (64) for one that is not understood."""
    return _opened(_json(text or "null", "the event"), 0)


def _opened(value: Any, depth: int) -> Opened:
    if value is None:
        return Opened()
    if depth > _MAX_DEPTH:
        raise unknown("it has messages in messages, too deep")
    if not isinstance(value, dict):
        raise unknown(f"it is {_kind(value)}: {_shown(value)}")
    if value.get("Event") == "s3:TestEvent":
        return Opened(note=TEST_NOTE)
    if "Records" in value:
        return _records(value["Records"], depth)
    if value.get("source") == "aws.s3" and "detail" in value:
        return _event_bridge(value)
    if value.get("Type") == "Notification" and "Message" in value:
        return _message(value["Message"], "SNS", depth)
    if isinstance(value.get("requestContext"), dict):
        return _request(value, depth)
    if strange := [name for name in value if name not in OWN]:
        near = difflib.get_close_matches(strange[0], OWN, 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        names = ", ".join(_shown(name) for name in strange[:5])
        raise unknown(f"it has the unknown key {names}{meant}")
    return Opened(own=value)


def _records(records: Any, depth: int) -> Opened:
    """Parse the single record that names what to run; S3's test records don't count."""
    if not isinstance(records, list) or not records:
        raise unknown(f"its Records are {_shown(records)}")
    found = [_record(record, depth) for record in records]
    jobs = [one for one in found if not one.note]
    if len(jobs) > 1:
        hint = "send one at a time: batch size 1 for SQS"
        raise AgentError("use the event", f"it has {len(jobs)} records", code=USAGE, hint=hint)
    return jobs[0] if jobs else found[0]


def _record(record: Any, depth: int) -> Opened:
    if not isinstance(record, dict):
        raise unknown(f"its record is {_kind(record)}: {_shown(record)}")
    if isinstance(record.get("s3"), dict):
        name = str(record.get("eventName", "ObjectCreated"))
        if not name.startswith(("ObjectCreated", "s3:ObjectCreated")):
            raise unknown(f"its event is {_shown(name)}, not the creation of an object")
        return _object(record["s3"], quoted=True)
    source = record.get("eventSource", record.get("EventSource", "somewhere else"))
    if source == "aws:sqs":
        return _message(record.get("body"), "SQS", depth)
    if source == "aws:sns" and isinstance(record.get("Sns"), dict):
        return _message(record["Sns"].get("Message"), "SNS", depth)
    raise unknown(f"its record is from {_shown(source)}")


def _message(text: Any, service: str, depth: int) -> Opened:
    if not isinstance(text, str):
        raise unknown(f"its message of {service} has no text")
    return _opened(_json(text, f"its message of {service}"), depth + 1)


def _event_bridge(event: Mapping[str, Any]) -> Opened:
    kind = event.get("detail-type", "Object Created")
    if kind != "Object Created":
        raise unknown(f"its event is {_shown(kind)}, not the creation of an object")
    return _object(event["detail"], quoted=False)


def _object(described: Any, *, quoted: bool) -> Opened:
    """Return the object of a notification; S3 itself quotes the key as a form does."""
    try:
        bucket, object_ = described["bucket"]["name"], described["object"]
        key, size = object_["key"], object_.get("size", 0)
        if not isinstance(bucket, str) or not isinstance(key, str):
            raise TypeError("its name is not text")
    except (KeyError, TypeError, AttributeError) as error:
        raise unknown(f"it names no object ({error})") from error
    key = unquote_plus(key) if quoted else key
    return Opened(note=FOLDER_NOTE) if key.endswith("/") and not size else Opened((bucket, key))


def _request(event: Mapping[str, Any], depth: int) -> Opened:
    """Parse the body of an HTTP request from a function URL or an API Gateway (1.0, 2.0)."""
    body = event.get("body") or ""
    if not isinstance(body, str):
        raise unknown("its body is not text")
    if event.get("isBase64Encoded"):
        try:
            body = base64.b64decode(body, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise unknown(f"its body is not text in base64: {error}") from error
    return _opened(_json(body.strip() or "null", "its body"), depth + 1)


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise unknown(f"{what} is not JSON: {shorten(str(error))}") from error


def _kind(value: Any) -> str:
    kinds = {str: "text", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), type(value).__name__)


def _shown(value: Any) -> str:
    """Return a value shortened for an error: an event can have 6 MB."""
    return shorten(repr(value))


def unknown(cause: str) -> AgentError:
    """Return the error of an event that is not understood."""
    return AgentError("use the event", cause, code=USAGE, hint=KNOWN)
