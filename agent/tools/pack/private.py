"""Pack private.7z: a directory, a key pair if it has none, encrypted, and tested by unpacking."""

from __future__ import annotations

import filecmp
import getpass
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.core.errors import (
    BAD_ARCHIVE,
    BAD_SETTINGS,
    CANNOT_WRITE,
    NO_OBJECT,
    OS_ERROR,
    USAGE,
    AgentError,
    os_reason,
)
from agent.core.values import flaw
from agent.core.variables import OFF
from agent.staging import archive
from agent.staging.archive import OWN_NAMES

KEY = "ssh_host_rsa_key"
# Nodes wait while it is unpacked: 346 MB take 4.1 s with 7-Zip's own level 5, 2.7 s with this one.
LEVEL = 1


@dataclass(frozen=True)
class Packed:
    """What was packed: sizes in bytes, the seconds that unpacking took."""

    path: Path
    files: int
    content: int
    size: int
    encrypted: bool
    unpack_seconds: float

    def __str__(self) -> str:
        """Describe it in one line."""
        how = "encrypted, names too" if self.encrypted else "not encrypted"
        return (
            f"{self.path}: {self.files} files, {self.content / 1e6:.1f} MB in"
            f" {self.size / 1e6:.1f} MB, {how}; unpacked again in {self.unpack_seconds:.1f} s"
        )


def password(file: Path | None, env: dict[str, str]) -> str:
    """Return the password: of the file, of PRIVATE_PASSWD, or asked for on the terminal."""
    if file is not None:
        try:
            given = file.read_text("utf-8").partition("\n")[0].rstrip("\r")
        except OSError as error:
            hint = "name a file whose first line is the password"
            raise AgentError(f"read {file}", os_reason(error), code=NO_OBJECT, hint=hint) from error
        except UnicodeError as error:
            hint = "save the file as UTF-8: the job reads it as UTF-8"
            raise AgentError(f"read {file}", "not UTF-8", code=BAD_SETTINGS, hint=hint) from error
    elif "PRIVATE_PASSWD" in env:
        given = env["PRIVATE_PASSWD"]
    elif sys.stdin.isatty():
        given = getpass.getpass("password for private.7z: ")
        if getpass.getpass("the same again: ") != given:
            raise AgentError(
                "read the password", "the two entries differ", code=USAGE, hint="enter it again"
            )
    else:
        hint = "set PRIVATE_PASSWD, name a file with --password-file, or use --no-password"
        raise AgentError("encrypt private.7z", "no password is given", code=BAD_SETTINGS, hint=hint)
    cause = ""
    if not given:
        cause = "the password is empty"
    elif given in OFF:  # the job would unpack without one
        cause = f"{given} is reserved for no password"
    else:
        cause = flaw(given)
    if cause:
        hint = "choose another one, or use --no-password"
        raise AgentError("encrypt private.7z", cause, code=BAD_SETTINGS, hint=hint)
    return given


def check_target(target: Path, directory: Path | None = None) -> None:
    """Check, before any work, that an archive can be written there, outside what is packed.

    Raises AgentError: 64 for a target inside the directory, 73 for one that can't be written.
    """
    hint = "name a file in a directory that exists with --to"
    if directory is not None and target.resolve().is_relative_to(directory.resolve()):
        # The archive, and the directory for the test, would be packed too.
        cause, hint = f"{target} is inside it", "name a file outside with --to"
        raise AgentError(f"pack {directory}", cause, code=USAGE, hint=hint)
    if target.is_dir():
        raise AgentError(f"write {target}", "is a directory", code=CANNOT_WRITE, hint=hint)
    if not target.parent.is_dir():
        cause = f"no such directory: {target.parent}"
        raise AgentError(f"write {target}", cause, code=CANNOT_WRITE, hint=hint)
    if not os.access(target.parent, os.W_OK):
        cause = "permission denied"
        raise AgentError(f"write {target}", cause, code=CANNOT_WRITE, hint=hint)


def pack(
    directory: Path,
    target: Path,
    secret: str,
    *,
    level: int = LEVEL,
    progress: Callable[[int], None] = lambda percent: None,
) -> Packed:
    """Pack a directory's content; `progress` gets percentages. Raises AgentError 64, 65, 71.

    `check_target` comes first, before the password prompt.
    """
    names = _names(directory)
    if KEY not in names:
        _make_keys(directory)
    with tempfile.TemporaryDirectory(prefix=".architrave-pack-", dir=target.parent) as work:
        made = Path(work) / "private.7z"
        _seven_zip(directory, made, secret, level, progress)
        seconds = _try(made, directory, Path(work) / "again", secret)
        os.replace(made, target)
    files = [path for path in directory.rglob("*") if path.is_file()]
    content = sum(path.stat().st_size for path in files)
    return Packed(target, len(files), content, target.stat().st_size, bool(secret), seconds)


def _names(directory: Path) -> set[str]:
    """Return the names at the archive's root; raise AgentError (64) for what jobs refuse."""
    hint = "name the directory whose content goes to /opt"
    if not directory.is_dir():
        raise AgentError(f"pack {directory}", "not a directory", code=USAGE, hint=hint)
    names = set(os.listdir(directory))
    if not names:
        raise AgentError(f"pack {directory}", "it is empty", code=USAGE, hint=hint)
    if own := sorted(names & OWN_NAMES):
        cause = f"{', '.join(own)} would replace the agent's own files"
        raise AgentError(f"pack {directory}", cause, code=USAGE, hint="rename them")
    return names


def _make_keys(directory: Path) -> None:
    argv = ["ssh-keygen", "-q", "-t", "rsa", "-b", "3072", "-N", "", "-C", "", "-f", KEY]
    try:
        subprocess.run(argv, cwd=directory, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        hint = "apt-get install openssh-client"
        raise AgentError("make a key pair", str(error), code=OS_ERROR, hint=hint) from error


def _seven_zip(
    directory: Path, target: Path, secret: str, level: int, progress: Callable[[int], None]
) -> None:
    """Run 7-Zip; the password goes through its standard input."""
    argv = [archive.seven_zip(), "a", "-y", "-bso0", "-bsp1", "-snl", f"-mx{level}"]
    argv += ["-mhe=on", "-p"] if secret else []
    process = subprocess.Popen(
        [*argv, str(target.resolve()), "."],
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # With a controlling terminal it would ask there.
        start_new_session=True,
    )
    assert process.stdin and process.stdout and process.stderr
    with process:
        process.stdin.write(f"{secret}\n{secret}\n".encode() if secret else b"")
        process.stdin.close()
        for percent in _percents(process.stdout):
            progress(percent)
        complaint = process.stderr.read().decode("utf-8", "replace")
    if process.returncode:
        lines = [line for line in complaint.splitlines() if line.strip()] or ["no output"]
        hint = "check the directory's files and permissions, and the disk: df -h"
        raise AgentError(f"pack {directory}", lines[-1], code=OS_ERROR, hint=hint)


def _percents(stream: Iterator[bytes] | object) -> Iterator[int]:
    read = stream.read1  # type: ignore[union-attr]  # a pipe's buffered end
    while data := read(4096):
        found = re.findall(rb"(\d+)%", data)
        if found:
            yield int(found[-1])


def _try(made: Path, directory: Path, again: Path, secret: str) -> float:
    """Unpack as a node would and compare; return the seconds of unpacking."""
    again.mkdir()
    start = time.monotonic()
    archive.unpack_7z(str(made), str(again), secret, OWN_NAMES)
    seconds = time.monotonic() - start
    names = [str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()]
    _, different, missing = filecmp.cmpfiles(directory, again, names, shallow=False)
    if different or missing:
        cause = f"differs after unpacking: {', '.join([*different, *missing][:5])}"
        hint = "try again; if it happens again, check the disk"
        raise AgentError(f"pack {directory}", cause, code=BAD_ARCHIVE, hint=hint)
    shutil.rmtree(again)
    return seconds
