"""Sign a request to S3 with AWS Signature Version 4, without botocore.

Botocore takes half a second of processor time to import and to make a client (benchmarks/start.py):
more than a small job's other work. Source of the rules: Amazon S3 API reference, "Signature
calculations for the Authorization header".
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import quote


class Credentials(NamedTuple):
    """What a request is signed with; `token` is empty for long-term keys."""

    access_key: str
    secret_key: str
    token: str = ""


def encoded_path(*parts: str) -> str:
    """Return a request's path as it is sent and signed: a bucket, a key, or only a key."""
    return "".join("/" + quote(part, safe="/~") for part in parts)


def signed_headers(
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    credentials: Credentials,
    region: str,
    body: bytes,
    now: datetime,
) -> dict[str, str]:
    """Return the headers with those that sign them; `headers` has the host, names in lower case.

    `path` and `query` are as they are sent, `now` is in UTC.
    """
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    digest = sha256(body).hexdigest()
    signed = {**headers, "x-amz-date": stamp, "x-amz-content-sha256": digest}
    if credentials.token:
        signed["x-amz-security-token"] = credentials.token
    names = sorted(signed)
    request = "\n".join(
        [
            method,
            path,
            query,
            *(f"{name}:{' '.join(signed[name].split())}" for name in names),
            "",
            ";".join(names),
            digest,
        ]
    )
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    key = b"AWS4" + credentials.secret_key.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{sha256(request.encode()).hexdigest()}"
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    signed["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
        f"SignedHeaders={';'.join(names)}, Signature={signature}"
    )
    return signed
