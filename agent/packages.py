"""Install Debian packages from files with dpkg, or lay them out below a directory."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from agent.errors import BAD_ARCHIVE, OS_ERROR, AgentError

# Not by the machine's processors: a container may have few processes.
_AT_ONCE = 4
# In deps.tar.gz; or on S3 in its stead, beside the packages that it names.
LISTING = "deps_batch.lst"
_FIELDS = ("Package", "Version", "Architecture")


def read_list(text: str) -> list[str]:
    """Return the file names in a deps_batch.lst: one a line, `#` begins a comment."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [os.path.basename(line) for line in lines if line.endswith(".deb")]


def install(files: list[str], *, system: bool, laid_out: str) -> dict[str, object]:
    """Install what is not installed yet.

    With `system` dpkg installs (root only); otherwise the files are laid out below the directory
    `laid_out`, and its programs and libraries are named in the answer. Returns {"installed",
    "skipped", "path", "library_path"}. Raises AgentError 65 or 71.
    """
    if not files:
        return {"installed": [], "skipped": [], "path": [], "library_path": []}
    if not shutil.which("dpkg"):
        raise AgentError(
            "install the dependencies",
            "this image has no dpkg",
            code=OS_ERROR,
            hint="set S3_BATCH_DEPS_REL_PATH='<none>' and put them into private.7z",
        )
    wanted, skipped = _sort_out(files)
    paths: list[str] = []
    libraries: list[str] = []
    if wanted and system:
        _dpkg(wanted)
    elif wanted:
        for file in wanted:
            _run(["dpkg-deb", "-x", file, laid_out], os.path.basename(file))
        paths, libraries = search_paths(laid_out)
    names = [os.path.basename(file) for file in wanted]
    return {"installed": names, "skipped": skipped, "path": paths, "library_path": libraries}


def _sort_out(files: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the files into those to install and the names of those that are there already."""
    ours = _run(["dpkg", "--print-architecture"], "dpkg").strip()
    there = _installed()
    wanted, skipped = [], []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        read = [*zip(files, pool.map(_fields, files), strict=True)]
    for file, (package, version, architecture) in read:
        name = os.path.basename(file)
        if architecture not in ("all", ours):
            raise AgentError(
                f"install {name}",
                f"it is for {architecture}, this machine is {ours}",
                code=BAD_ARCHIVE,
                hint=f"download the packages for {ours}",
            )
        if _is_new_enough(there.get(package, ""), version):
            skipped.append(name)
        else:
            wanted.append(file)
    return wanted, skipped


def _fields(file: str) -> list[str]:
    """Return a package's name, version and architecture."""
    lines = _run(["dpkg-deb", "-f", file, *_FIELDS], os.path.basename(file)).splitlines()
    fields = dict(line.split(": ", 1) for line in lines if ": " in line)
    return [fields.get(field, "") for field in _FIELDS]


def _installed() -> dict[str, str]:
    """Return {package: version} of everything that is installed."""
    listing = _run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n"],
        "dpkg",
        fail=False,
    )
    rows = (line.split(" ") for line in listing.splitlines())
    return {row[1]: row[2] for row in rows if len(row) == 3 and row[0] == "installed"}


def _is_new_enough(there: str, wanted: str) -> bool:
    """Tell whether the installed version is the wanted one or newer: nothing is downgraded."""
    if not there or there == wanted:
        return bool(there)
    compare = ["dpkg", "--compare-versions", there, "ge", wanted]
    return subprocess.run(compare, stderr=subprocess.DEVNULL, check=False).returncode == 0


def _dpkg(files: list[str]) -> None:
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true"}
    # The container is thrown away: what a power cut would do to its disk doesn't matter.
    _run(
        ["dpkg", "--force-unsafe-io", "--force-confold", "-i", *files], "the dependencies", env=env
    )


def search_paths(root: str) -> tuple[list[str], list[str]]:
    """Return the directories of programs and of shared libraries below `root`."""
    paths, libraries = [], []
    for folder, _, names in os.walk(root):
        if os.path.basename(folder) in ("bin", "sbin"):
            paths.append(folder)
        if any(".so" in name for name in names):
            libraries.append(folder)
    return sorted(paths), sorted(libraries)


def _run(
    command: list[str], name: str, *, env: dict[str, str] | None = None, fail: bool = True
) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", env=env
    )
    if done.returncode and fail:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        wrong = [line for line in lines if "error" in line.lower()] or lines
        raise AgentError(
            f"install {name}",
            (wrong[0] if wrong else f"{command[0]} ended with {done.returncode}"),
            code=BAD_ARCHIVE,
            hint="install the same files by hand: docker run … shell, then dpkg -i /tmp/deps/*.deb",
        )
    return done.stdout
