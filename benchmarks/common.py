"""What benchmarks share: an archive with a key pair, and where figures go."""

from __future__ import annotations

import json
import subprocess
import venv
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
PEERS = REPOSITORY / "build/peers"


def make_private(directory: Path, *more: str) -> Path:
    """Pack private.7z with a key pair and `more` files; return its path."""
    keys = directory / "keys"
    keys.mkdir(parents=True)
    key = keys / "ssh_host_rsa_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", key], check=True)
    private = directory / "private.7z"
    subprocess.run(["7zz", "a", "-bso0", private, ".", *more], cwd=keys, check=True)
    return private


def install_peers() -> None:
    """Install what is measured against, and what draws, into an environment of its own."""
    if not (PEERS / "bin/aws").exists():
        venv.create(PEERS, with_pip=True)
        requirements = REPOSITORY / "benchmarks/requirements.txt"
        subprocess.run([PEERS / "bin/pip", "install", "-q", "-r", requirements], check=True)


def inspect(container: str, form: str) -> str:
    """Return what the engine knows of a container."""
    words = ["docker", "inspect", "--format", form, container]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def write(name: str, found: Any) -> None:
    """Write figures to build/NAME.json."""
    (REPOSITORY / "build").mkdir(exist_ok=True)
    (REPOSITORY / f"build/{name}.json").write_text(json.dumps(found, indent=1) + "\n")
