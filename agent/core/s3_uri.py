"""The S3 URI of an object or a prefix: its bucket and key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from agent.core.errors import bad


@dataclass(frozen=True)
class S3Uri:
    """A bucket and a key or key prefix; a prefix has no slash at its ends."""

    bucket: str
    key: str = ""

    @classmethod
    def parse(cls, text: str, name: str) -> S3Uri:
        """Read `s3://bucket/prefix` or `bucket/prefix`; raise AgentError (78) otherwise."""
        bucket, _, key = text.removeprefix("s3://").rstrip("/").partition("/")
        parts = key.split("/") if key else []
        if not bucket or "://" in text.removeprefix("s3://") or {"..", "."} & set(parts):
            raise bad(name, text, "not an S3 URI", "use s3://bucket or s3://bucket/prefix")
        return cls(bucket, "/".join(part for part in parts if part))

    def __truediv__(self, relative: str) -> S3Uri:
        """Return the URI of what is below this one."""
        return S3Uri(self.bucket, "/".join(part for part in (self.key, relative) if part))

    def __str__(self) -> str:
        """Return the URI as text."""
        return f"s3://{self.bucket}/{self.key}".rstrip("/")


def has_own_endpoint(env: Mapping[str, str]) -> bool:
    """Return whether requests name the bucket in the path: a custom endpoint has no DNS for it."""
    return bool(env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL"))


def fields(uri: S3Uri | None) -> dict[str, str] | None:
    """Return a URI as it is sent to a helper."""
    return asdict(uri) if uri else None
