"""Read a Debian package's control file (deb(5), deb-control(5))."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from agent.core.errors import BAD_ARCHIVE, AgentError
from agent.engine import capture

# Independent of the processors: a container may allow few processes.
_AT_ONCE = 4
_FIELDS = ("Package", "Version", "Architecture")
_MAGIC, _HEADER = b"!<arch>\n", 60
_MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class Package:
    """A package in a file."""

    path: str
    name: str
    version: str
    architecture: str


def read(paths: Sequence[str]) -> list[Package]:
    """Return the packages in files; raise AgentError (65) for a file that is not a package.

    Read here where the control archive's compression is known to Python: a process for each of 300
    packages takes 2.5 s.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [
            Package(path, *(fields.get(name, "") for name in _FIELDS))
            for path, fields in zip(paths, pool.map(_fields, paths), strict=True)
        ]


def _fields(path: str) -> dict[str, str]:
    try:
        text = _control(path)
    except (OSError, ValueError, tarfile.TarError, EOFError):
        text = ""
    found = _parsed(text)
    if all(found.get(name) for name in _FIELDS):
        return found
    # zstd, as on Ubuntu, or a broken file: ask dpkg.
    done = capture.run(["dpkg-deb", "-f", path, *_FIELDS])
    if done.code:
        name = os.path.basename(path)
        lines = done.err.split("\n")
        cause = " ".join(line.strip() for line in lines if line.strip())
        raise AgentError(
            f"read {name}",
            cause or f"dpkg-deb exited with {done.code}",
            code=BAD_ARCHIVE,
            hint=f"download {name} again",
        )
    return _parsed(done.out)


def _parsed(text: str) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line[1:])
    return {name: value.strip() for name, value in pairs if name in _FIELDS}


def _control(path: str) -> str:
    """Return the file `control` of a package; raise ValueError if it isn't found this way."""
    with open(path, "rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("not an ar archive")
        while len(header := file.read(_HEADER)) == _HEADER:
            name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
            if name.startswith("control.tar") and size <= _MAX_BYTES:
                return _member(file.read(size))
            file.seek(size + size % 2, os.SEEK_CUR)
    raise ValueError("no control archive")


def _member(data: bytes) -> str:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            if member.name in ("control", "./control") and (content := tar.extractfile(member)):
                return content.read(_MAX_BYTES).decode("utf-8", "replace")
    raise ValueError("no control file")
