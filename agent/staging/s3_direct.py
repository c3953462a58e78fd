"""Use S3 by single requests, where these succeed. Runs in helper processes only, behind `s3`.

A job needs few of them: its archives, some results, the record. Whatever is not plain
(settings in files, another kind of credentials, an error of any sort) is left to boto3, which finds
the cause, waits and tries again: no error of this module is ever shown.
"""

from __future__ import annotations

import base64
import http.client
import re
import ssl
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from agent.core.s3_uri import S3Uri
from agent.staging.endpoint import Endpoint, NotPlain
from agent.staging.sigv4 import encoded_path, signed_headers

_CONNECT_SECONDS, _READ_SECONDS = 10, 30
# The longest time that a request takes to fail.
PATIENCE_SECONDS = _CONNECT_SECONDS + _READ_SECONDS
# A bucket that may be in a host name under the certificate's wildcard, and is not a special kind.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_OTHER_KINDS = ("--x-s3", "--ol-s3", "-s3alias", "--table-s3")

_HEAD = {
    "content-length": "ContentLength",
    "etag": "ETag",
    "x-amz-checksum-sha256": "ChecksumSHA256",
    "x-amz-checksum-sha1": "ChecksumSHA1",
    "x-amz-checksum-crc32": "ChecksumCRC32",
    "x-amz-server-side-encryption": "ServerSideEncryption",
    "x-amz-server-side-encryption-customer-algorithm": "SSECustomerAlgorithm",
}


class DirectS3:
    """An endpoint of S3's; threads may share it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._own = threading.local()
        self._tls: ssl.SSLContext | None = None

    def open(self, uri: S3Uri) -> tuple[dict[str, Any], Any]:
        """Return an object's head, as boto3 names its fields, and its body, which can be read."""
        answer = self._ask("GET", uri, headers={"x-amz-checksum-mode": "ENABLED"})
        return _head(answer), answer

    def read(self, uri: S3Uri) -> bytes:
        """Return an object's content."""
        return bytes(self._ask("GET", uri).read())

    def part_size(self, uri: S3Uri) -> int:
        """Return the size in bytes of the first part of an object that was uploaded in parts."""
        answer = self._ask("HEAD", uri, "partNumber=1")
        answer.read()
        return int(_head(answer)["ContentLength"])

    def put(self, data: bytes, uri: S3Uri, content_type: str | None = None) -> None:
        """Write an object with its SHA-256, which S3 checks and keeps."""
        digest = base64.b64encode(sha256(data).digest()).decode()
        headers = {"x-amz-checksum-sha256": digest}
        if content_type:
            headers["content-type"] = content_type
        self._ask("PUT", uri, headers=headers, body=data).read()

    def remove(self, uri: S3Uri) -> None:
        """Delete an object."""
        self._ask("DELETE", uri).read()

    def close(self) -> None:
        """Drop this thread's connection: the rest of an answer is useless."""
        connection = getattr(self._own, "connection", None)
        if connection is not None:
            connection.close()
        self._own.connection = None

    def _ask(
        self,
        method: str,
        uri: S3Uri,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> http.client.HTTPResponse:
        """Return the answer to a request; raise NotPlain or OSError for any but success."""
        try:
            host = urlsplit(self._endpoint.url).netloc
            if self._endpoint.path_style:
                path = encoded_path(uri.bucket, uri.key)
            else:
                if not _BUCKET.fullmatch(uri.bucket) or uri.bucket.endswith(_OTHER_KINDS):
                    raise NotPlain(f"the bucket {uri.bucket}")
                host, path = f"{uri.bucket}.{host}", encoded_path(uri.key)
            signed = signed_headers(
                method,
                path,
                query,
                {"host": host, **(headers or {})},
                self._endpoint.credentials(),
                self._endpoint.region,
                body,
                datetime.now(UTC),
            )
            if body or method == "PUT":
                signed["content-length"] = str(len(body))
            answer = self._send(host, method, path + (f"?{query}" if query else ""), signed, body)
            if answer.status // 100 != 2:
                raise NotPlain(f"S3's answer is {answer.status}")
            return answer
        except http.client.HTTPException as error:
            self.close()
            raise NotPlain(str(error) or type(error).__name__) from error
        except BaseException:
            self.close()
            raise

    def _send(
        self, host: str, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> http.client.HTTPResponse:
        if getattr(self._own, "host", None) == host and self._own.connection is not None:
            try:
                self._own.connection.request(method, path, body or None, headers)
                return self._own.connection.getresponse()  # type: ignore[no-any-return]
            except (http.client.HTTPException, ConnectionError):
                pass  # S3 closes one that is idle; and an answer may not have been read to its end
        self.close()
        self._own.host, self._own.connection = host, self._connect(host)
        self._own.connection.request(method, path, body or None, headers)
        return self._own.connection.getresponse()  # type: ignore[no-any-return]

    def _connect(self, host: str) -> http.client.HTTPConnection:
        if self._endpoint.url.startswith("http://"):
            connection = http.client.HTTPConnection(host, timeout=_CONNECT_SECONDS)
        else:
            if self._tls is None:
                self._tls = ssl.create_default_context(cafile=self._endpoint.authorities)
            connection = http.client.HTTPSConnection(
                host, timeout=_CONNECT_SECONDS, context=self._tls
            )
        connection.connect()
        connection.sock.settimeout(_READ_SECONDS)
        return connection


def _head(answer: http.client.HTTPResponse) -> dict[str, Any]:
    """Return an answer's headers as boto3's HeadObject names them."""
    return {name: answer.headers[key] for key, name in _HEAD.items() if key in answer.headers}
