"""Pack the example: hpcc as the closed program, its libraries as the dependencies."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

HERE = Path(__file__).parent


class PackError(Exception):
    """Say what could not be packed and why."""


def fetch(directory: Path, image: str | None, log: Path) -> list[Path]:
    """Get hpcc and the packages it lacks in the image (None: on this machine) into a directory."""
    command = ["sh", "-s"]
    if image is not None:
        command = ["docker", "run", "--rm", "--interactive", "--entrypoint", "sh", image, "-s"]
    archive = directory / "hpcc.tar"
    script = HERE / "fetch-debs"
    with script.open("rb") as source, archive.open("wb") as out, log.open("ab") as errors:
        done = subprocess.run(command, stdin=source, stdout=out, stderr=errors)
    if done.returncode:
        raise PackError(f"cannot fetch hpcc and its packages: apt-get ended with {done.returncode}")
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.isfile() and "/" not in member.name[2:]]
        tar.extractall(directory, members=members)
    archive.unlink()
    return sorted(directory.glob("*.deb"))


def pack_private(target: Path, program: Path, password: str) -> list[str]:
    """Write private.7z with an encrypted header; return the names in it."""
    stage = target.parent / "private"
    stage.mkdir()
    for path in (program, HERE / "hpcc-job", HERE / "hpccinf.txt"):
        shutil.copy(path, stage)
        (stage / path.name).chmod(0o644 if path.suffix else 0o755)
    key = ["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-C", "", "-f", "ssh_host_rsa_key"]
    subprocess.run(key, cwd=stage, check=True, stdin=subprocess.DEVNULL)
    names = sorted(path.name for path in stage.iterdir())
    subprocess.run(
        [_seven_zip(), "a", "-y", "-bso0", "-bsp0", "-mhe=on", "-mx1", "-p", str(target), *names],
        cwd=stage,
        # With -p and no value 7-Zip reads the password, and older ones read it twice. In a session
        # of its own it can't turn to the terminal instead.
        input=f"{password}\n{password}\n".encode(),
        start_new_session=True,
        check=True,
    )
    shutil.rmtree(stage)
    return names


def _seven_zip() -> str:
    for name in ("7zz", "7z", "7za"):
        if found := shutil.which(name):
            return found
    raise PackError("cannot pack private.7z: 7-Zip is missing\nhint: apt-get install 7zip")
