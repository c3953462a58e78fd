"""S3's endpoint and credentials, read from plain settings. For helper processes only.

What else botocore reads (files, other kinds of credentials, proxies) is left to it: if any of it
is set, no endpoint is found here.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import NamedTuple
from urllib.parse import urlsplit

from agent.core.environ import region
from agent.staging.sigv4 import Credentials

# Where Amazon ECS answers; the SDKs have the same address (AWS SDKs and tools reference guide,
# "Container credential provider").
_ECS = "http://169.254.170.2"
# New ones are requested so long before the old ones expire.
_RENEW = timedelta(minutes=10)
# After a failure boto3 is asked, which waits for them: a thousand results must not do so twice.
_ANSWER_SECONDS, _PAUSE_SECONDS = 2, 60
# With any of these set, botocore decides.
_NOT_PLAIN = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    *(
        name
        for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        for name in (proxy, proxy.lower())
    ),
)
_FILES = (
    ("AWS_CONFIG_FILE", "~/.aws/config"),
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
)
_PLAIN_URL = re.compile(r"https?://[a-zA-Z0-9.-]+(:\d+)?/?")
# Those of other partitions have other names.
_REGION = re.compile(r"(af|ap|ca|eu|il|me|mx|sa|us)(-[a-z]+)+-\d")


class NotPlain(Exception):
    """An answer or a setting that is left to boto3."""


class Endpoint(NamedTuple):
    """An endpoint of S3's. `authorities` is the path of the certificates to trust."""

    url: str
    region: str
    credentials: Callable[[], Credentials]
    path_style: bool
    authorities: str


def authorities(env: Mapping[str, str]) -> str:
    """Return the path of the certificates to trust, as botocore finds it.

    An image may have none of its own; botocore brings some.
    """
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        if env.get(name):
            return env[name]
    for package in ("certifi", "botocore"):
        found = find_spec(package)
        if found is not None and found.submodule_search_locations:
            return os.path.join(found.submodule_search_locations[0], "cacert.pem")
    raise NotPlain("no certificates")


def plain_endpoint(env: Mapping[str, str], *, path_style: bool) -> Endpoint | None:
    """Return the endpoint that the environment names, None if only boto3 can find it."""
    if any(env.get(name) for name in _NOT_PLAIN) or any(
        os.path.exists(os.path.expanduser(env.get(name) or usual)) for name, usual in _FILES
    ):
        return None
    url = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL") or ""
    where = region(env) or ""
    if not url and _REGION.fullmatch(where):
        url = f"https://s3.{where}.amazonaws.com"
    credentials = _credentials(env)
    if credentials is None or not where or not _PLAIN_URL.fullmatch(url):
        return None
    try:
        trusted = authorities(env) if url.startswith("https:") else ""
    except NotPlain:
        return None
    return Endpoint(url.rstrip("/"), where, credentials, path_style, trusted)


def _credentials(env: Mapping[str, str]) -> Callable[[], Credentials] | None:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    keys = Credentials(*(env.get(name, "") for name in names))
    if not all(map(_fits_a_header, keys)):
        return None
    if keys.access_key and keys.secret_key:
        return lambda: keys
    if env.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
        return None
    relative, full = (
        env.get(f"AWS_CONTAINER_CREDENTIALS_{kind}_URI", "") for kind in ("RELATIVE", "FULL")
    )
    if relative:
        return _OfContainer(_ECS + relative)
    if re.match(r"http://(127\.0\.0\.1|localhost)(:\d+)?/", full):
        return _OfContainer(full)
    return None


def _fits_a_header(text: str) -> bool:
    """Return whether a request can be signed with it; an error message would show it."""
    return text.isascii() and text.isprintable()


class _OfContainer:
    """The credentials from a container's own endpoint; renewed before they expire."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._turn = threading.Lock()
        self._found: Credentials | None = None
        self._until = datetime.min.replace(tzinfo=UTC)
        self._not_before = 0.0

    def __call__(self) -> Credentials:
        with self._turn:
            if self._found is None or datetime.now(UTC) > self._until - _RENEW:
                if time.monotonic() < self._not_before:
                    raise NotPlain("the credentials were not available a moment ago")
                self._not_before = time.monotonic() + _PAUSE_SECONDS
                self._found, self._until = self._ask()
                self._not_before = 0.0
            return self._found

    def _ask(self) -> tuple[Credentials, datetime]:
        connection = http.client.HTTPConnection(self._url.netloc, timeout=_ANSWER_SECONDS)
        try:
            path = self._url.path + (f"?{self._url.query}" if self._url.query else "")
            connection.request("GET", path, headers={"Accept": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise NotPlain(f"the answer for credentials is {answer.status}")
            found = json.loads(answer.read())
            keys = Credentials(
                found["AccessKeyId"], found["SecretAccessKey"], found.get("Token") or ""
            )
            if not all(map(_fits_a_header, keys)):
                raise NotPlain("the answer for credentials has unexpected characters")
            return keys, datetime.fromisoformat(found["Expiration"])
        except (KeyError, TypeError, ValueError) as error:
            raise NotPlain(f"the answer for credentials: {error}") from error
        finally:
            connection.close()
