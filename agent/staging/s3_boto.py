"""Read and write S3 objects with boto3. Runs in helper processes only, behind `s3`.

Its client is made when it is first used: to import boto3 and to make a client take half a second of
processor time, and normally it isn't needed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn

from agent.core.environ import region
from agent.core.errors import (
    BAD_ARCHIVE,
    CANNOT_WRITE,
    NO_OBJECT,
    NO_PERMISSION,
    S3_UNREACHABLE,
    AgentError,
    NotThere,
    os_reason,
)
from agent.core.model import Emit
from agent.core.s3_uri import S3Uri
from agent.staging import s3_fast, signing
from agent.staging.checksums import digests, expected
from agent.staging.credentials import Patience
from agent.staging.endpoint import Endpoint, authorities
from agent.staging.progress import Progress
from agent.staging.s3_fast import LARGE, line
from agent.staging.sigv4 import Credentials

_MIB = 1 << 20
# Measured: half the time and processor seconds of boto3's defaults for large objects.
_PART_SIZE, _PARTS_AT_ONCE, _IO_CHUNK = 32 * _MIB, 2, 4 * _MIB
_CONNECT_SECONDS, _READ_SECONDS = 10, 30
# Attempts of a request (the SDK's own name: AWS_MAX_ATTEMPTS), and of an interrupted body.
_ATTEMPTS, _BODY_ATTEMPTS = 6, 3
# The longest pause between two attempts in botocore's standard mode.
_PAUSE_SECONDS = 20
_CHECK_ATTEMPTS = 2
_MISSING = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
_DENIED = {
    "403": "check the role's policy: s3:GetObject on the archives, s3:PutObject on the results",
    "AccessDenied": "check the role's policy: s3:GetObject on archives, s3:PutObject on results",
    "ExpiredToken": "get new credentials: these have expired",
    "RequestTimeTooSkewed": "set this machine's clock",
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY",
    "AuthorizationHeaderMalformed": "check AWS_REGION: the bucket is in another region",
    "PermanentRedirect": "check AWS_REGION: the bucket is in another region",
    "301": "check AWS_REGION: the bucket is in another region",
    "400": "check the credentials and AWS_REGION",
}


class BotoS3:
    """An S3 endpoint, chosen by the AWS SDK's own environment variables. Threads may share it.

    One that is not `patient` doesn't wait for credentials that are not available now. With
    `try_fast`, large objects and many small ones are moved by obstore where possible.
    """

    def __init__(self, emit: Emit, *, path_style: bool, patient: bool, try_fast: bool) -> None:
        self._emit = emit
        self._path_style = path_style
        # One for all: a thousand results don't wait for credentials one after the other.
        self._credentials = Patience(emit, self._careful if patient else 0)
        self._try_fast = try_fast
        self._turn = threading.Lock()
        self._client_made: Any = None
        self._transfer: Any = None
        self._fast_made: s3_fast.FastS3 | None = None

    @property
    def patience_seconds(self) -> float:
        """Return the longest time from the last received byte to the end of all attempts."""
        return (_BODY_ATTEMPTS + 1) * self._careful + s3_fast.PATIENCE_SECONDS

    @property
    def fast(self) -> s3_fast.FastS3 | None:
        """Return obstore's client for the same endpoint, None if only boto3 can reach it."""
        return self._fast_made if self._client else None

    @property
    def _careful(self) -> float:
        return _attempts() * (_READ_SECONDS + _PAUSE_SECONDS)

    @property
    def _client(self) -> Any:
        with self._turn:
            if self._client_made is None:
                self._make_client()
            return self._client_made

    def _make_client(self) -> None:
        import boto3
        from boto3.s3.transfer import TransferConfig
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        try:
            session = boto3.Session(region_name=region(os.environ))
            credentials = self._credentials.resolve(session)
            client = session.client(
                "s3",
                config=Config(
                    retries={"mode": "standard", "total_max_attempts": _attempts()},
                    connect_timeout=_CONNECT_SECONDS,
                    read_timeout=_READ_SECONDS,
                    max_pool_connections=32,
                    # A bucket in the host name works only where DNS knows it, as AWS's does.
                    s3={"addressing_style": "path" if self._path_style else "auto"},
                ),
            )
        except (BotoCoreError, ValueError) as error:
            raise _bad_settings(error) from error
        client.meta.events.register_first("needs-retry.s3", signing.with_its_clock)
        if self._try_fast:
            self._fast_made = _fast_s3(client, credentials, self._path_style)
        self._transfer = TransferConfig(
            multipart_threshold=_PART_SIZE,
            multipart_chunksize=_PART_SIZE,
            max_concurrency=_PARTS_AT_ONCE,
            io_chunksize=_IO_CHUNK,
            num_download_attempts=_BODY_ATTEMPTS,
        )
        # Of what is read once; ten by default.
        self._transfer.max_in_memory_upload_chunks = _PARTS_AT_ONCE
        self._client_made = client

    def fetch(self, uri: S3Uri, path: str) -> dict[str, Any]:
        """Fetch an object into a file and check it against S3's size and checksums.

        Returns {"object", "size", "sha256", "checked"}. Raises NotThere (66), AgentError 65 when
        the checksum stays wrong, 69 or 77.
        """
        what = os.path.basename(uri.key)
        for attempt in range(_CHECK_ATTEMPTS):
            try:
                head = self._head(uri)
                size = int(head["ContentLength"])
                wanted = expected(head)
                names = {name: parts for name, (_, parts) in wanted.items()}
                part_size = self._part_size(uri, wanted)
                check = partial(digests, path, names, part_size)
                found = self._get(uri, path, size, head["ETag"], check)
            except Exception as error:
                if not _is_wrong_body(error):
                    _raise(error, f"fetch {uri}")
                wrong = ["content"]
                self._again(what, wrong, attempt, str(error))
                continue
            wrong = mismatches(path, size, wanted, found)
            if not wrong:
                return fetched(uri, size, wanted, found)
            self._again(what, wrong, attempt)
        cause = f"its {' and '.join(wrong)} does not match"
        raise AgentError(f"fetch {uri}", cause, code=BAD_ARCHIVE, hint="upload it again")

    def _get(
        self,
        uri: S3Uri,
        path: str,
        size: int,
        etag: str,
        check: Callable[[s3_fast.Wait], s3_fast.Digests],
    ) -> s3_fast.Digests:
        """Fetch an object's bytes and check them: a large one on the fast path, if possible."""
        what = os.path.basename(uri.key)
        progress = Progress(self._emit, what, size)
        if self.fast is not None and size >= LARGE:
            try:
                return self.fast.get_file(uri.bucket, uri.key, path, size, etag, progress, check)
            except Exception as error:  # boto3 finds the cause, or recovers
                self._emit({"event": "fetch_fallback", "what": what, "cause": line(error)})
                progress = Progress(self._emit, what, size)
        self._client.download_file(
            uri.bucket, uri.key, path, Config=self._transfer, Callback=progress
        )
        return check(lambda end: None)

    def _again(self, what: str, wrong: list[str], attempt: int, cause: str | None = None) -> None:
        event = {"log": "warning", "event": "checksum_mismatch", "what": what, "checksums": wrong}
        self._emit(event | {"attempt_of_transfer": attempt + 1, "cause": cause})

    def _head(self, uri: S3Uri) -> dict[str, Any]:
        """Return an object's size and checksums."""
        from botocore.exceptions import ClientError

        try:
            found: dict[str, Any] = self._client.head_object(
                Bucket=uri.bucket, Key=uri.key, ChecksumMode="ENABLED"
            )
        except ClientError as error:
            if error.response["Error"]["Code"] in ("301", "400", "403"):
                # The answer to HEAD has no reason; the answer to GET has.
                self._client.get_object(Bucket=uri.bucket, Key=uri.key, Range="bytes=0-0")
            raise
        return found

    def look(self, uri: S3Uri) -> tuple[int, str]:
        """Return an object's size in bytes, and S3's time as its Date header has it."""
        try:
            head = self._head(uri)
        except Exception as error:
            _raise(error, f"fetch {uri}")
        return int(head["ContentLength"]), head["ResponseMetadata"]["HTTPHeaders"].get("date", "")

    def _part_size(self, uri: S3Uri, wanted: dict[str, tuple[bytes, int]]) -> int:
        """Return the size of an object's first part in bytes, if it was uploaded in parts."""
        if not any(parts for _, parts in wanted.values()):
            return 0
        head = self._client.head_object(Bucket=uri.bucket, Key=uri.key, PartNumber=1)
        return int(head["ContentLength"])

    def read(self, uri: S3Uri) -> bytes:
        """Return a small object's content."""
        try:
            answer = self._client.get_object(Bucket=uri.bucket, Key=uri.key)
            return bytes(answer["Body"].read())
        except Exception as error:
            _raise(error, f"fetch {uri}")

    def put_file(self, file: Any, uri: S3Uri, callback: Callable[[int], None]) -> None:
        """Upload a path, or what has `read` and is read once; raise AgentError (73, 69 or 77)."""
        put = self._client.upload_file if isinstance(file, str) else self._client.upload_fileobj
        try:
            put(file, uri.bucket, uri.key, Config=self._transfer, Callback=callback)
        except Exception as error:
            what = f"upload {file} to {uri}" if isinstance(file, str) else f"write {uri}"
            _raise(error, what, missing=CANNOT_WRITE)

    def put(self, data: bytes, uri: S3Uri, content_type: str | None = None) -> None:
        """Write a small object; raise AgentError (73, 69 or 77)."""
        more = {"ContentType": content_type} if content_type else {}
        try:
            self._client.put_object(Bucket=uri.bucket, Key=uri.key, Body=data, **more)
        except Exception as error:
            _raise(error, f"write {uri}", missing=CANNOT_WRITE)

    def remove(self, uri: S3Uri) -> None:
        """Delete an object; a refusal is not a failure."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._client.delete_object(Bucket=uri.bucket, Key=uri.key)
        except (AgentError, BotoCoreError, ClientError):
            pass


def _attempts() -> int:
    """Return how often a request is tried, as the SDK's own variable has it."""
    try:
        return int(os.environ.get("AWS_MAX_ATTEMPTS") or _ATTEMPTS)
    except ValueError as error:
        raise _bad_settings(error) from error


def _bad_settings(error: Exception) -> AgentError:
    hint = "check AWS_REGION and AWS_*"
    return AgentError("use the S3 endpoint", str(error), code=NO_PERMISSION, hint=hint)


def mismatches(
    path: str, size: int, wanted: Mapping[str, tuple[bytes, int]], found: Mapping[str, bytes]
) -> list[str]:
    """Return the checksums that a file doesn't have, and its size if that is wrong."""
    wrong = [name for name, (digest, _) in wanted.items() if found[name] != digest]
    return [*wrong, "size"] if os.path.getsize(path) != size else wrong


def fetched(
    uri: S3Uri, size: int, wanted: Mapping[str, object], found: Mapping[str, bytes]
) -> dict[str, Any]:
    """Return what is recorded of an object that was fetched and checked."""
    hashed = {"sha256": found["sha256"].hex(), "checked": sorted([*wanted, "size"])}
    return {"object": str(uri), "size": size, **hashed}


def _fast_s3(client: Any, credentials: Any, path_style: bool) -> s3_fast.FastS3 | None:
    """Return obstore's client for the same endpoint, None if only boto3 can reach it."""
    config = client.meta.config
    names = ("use_fips_endpoint", "use_dualstack_endpoint")
    if credentials is None or any(getattr(config, name, None) for name in names):
        return None

    def frozen() -> Credentials:
        found = credentials.get_frozen_credentials()
        return Credentials(found.access_key, found.secret_key, found.token or "")

    url, where = client.meta.endpoint_url, client.meta.region_name
    return s3_fast.FastS3(Endpoint(url, where, frozen, path_style, authorities(os.environ)))


def _is_wrong_body(error: Exception) -> bool:
    """Return whether a body was not what its checksum says, or changed between its parts."""
    from botocore.exceptions import FlexibleChecksumError
    from s3transfer.exceptions import S3DownloadFailedError

    return isinstance(error, FlexibleChecksumError | S3DownloadFailedError)


def _raise(error: Exception, what: str, *, missing: int = NO_OBJECT) -> NoReturn:
    """Turn what boto3 raises into an AgentError, with its exit code and hint."""
    from boto3.exceptions import Boto3Error, S3UploadFailedError
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        PartialCredentialsError,
    )

    if isinstance(error, S3UploadFailedError) and isinstance(error.__context__, ClientError):
        error = error.__context__
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        text = error.response.get("Error", {}).get("Message") or code
        if code in _MISSING:
            hint = f"aws s3 ls {what.rpartition(' ')[2].rpartition('/')[0]}/"
            kind = NotThere if missing == NO_OBJECT else AgentError
            raise kind(what, "no such object or bucket", code=missing, hint=hint) from error
        if code in _DENIED:
            raise AgentError(what, text, code=NO_PERMISSION, hint=_DENIED[code]) from error
        hint = "S3 returned an error; retry later"
        raise AgentError(what, f"{code}: {text}", code=S3_UNREACHABLE, hint=hint) from error
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        hint = "give the job a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise AgentError(what, "no AWS credentials found", code=NO_PERMISSION, hint=hint) from error
    if isinstance(error, BotoCoreError | Boto3Error):
        hint = "check the network, AWS_ENDPOINT_URL_S3 and AWS_REGION"
        raise AgentError(what, str(error), code=S3_UNREACHABLE, hint=hint) from error
    if isinstance(error, OSError):
        raise not_written(error, what) from error
    raise error


def not_written(error: OSError, what: str) -> AgentError:
    """Return the error for a file that can't be written."""
    return AgentError(what, os_reason(error), code=71, hint="check the disk: df -h")
