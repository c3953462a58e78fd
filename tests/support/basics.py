"""Where things are, and the small things that every suite does."""

import os
import shutil
import subprocess
import time
import zlib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
IMAGE = os.environ.get("ARCHITRAVE_TEST_IMAGE", "architrave:test")
LAMBDA_IMAGE = f"{IMAGE}-lambda"
PASSWORD = "geheim, with blanks & $igns"


def engine_answers():
    docker = shutil.which("docker")
    return bool(docker) and not subprocess.run([docker, "info"], capture_output=True).returncode


def slow(*values):
    """Return a test's parameters that are left out of the quick tests."""
    return pytest.param(*values, marks=pytest.mark.slow)


def until(condition, seconds=20.0):
    """Wait until a condition holds; fail the test when it doesn't in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return found


def read_line(process):
    """Return the next line of a process's output."""
    return process.stdout.readline()


def make_keys(directory):
    """Make a directory with an SSH key pair and return it."""
    directory.mkdir()
    path = directory / "ssh_host_rsa_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", path], check=True)
    return directory


def pack(directory, archive, password="", *options):
    """Make a 7z archive of a directory's content, with the password through standard input."""
    command = ["7zz", "a", "-bso0", "-bsp0", *options]
    command += ["-mhe=on", "-p"] if password else []
    subprocess.run(
        [*command, archive, "."],
        cwd=directory,
        input=f"{password}\n{password}\n",
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    return archive


def with_checksums(data):
    """Return a 7z archive whose header was changed with its CRCs put right."""
    offset, size = (int.from_bytes(data[i : i + 8], "little") for i in (12, 20))
    header = data[32 + offset : 32 + offset + size]
    start = data[12:28] + zlib.crc32(header).to_bytes(4, "little")
    return data[:8] + zlib.crc32(start).to_bytes(4, "little") + start + data[32:]
