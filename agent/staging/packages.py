"""Install Debian packages from files, or lay them out below a directory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from agent.core.errors import BAD_ARCHIVE, OS_ERROR, AgentError
from agent.engine import capture
from agent.staging import deb_control, dpkg
from agent.staging.deb_control import Package

# In deps.tar.gz; or on S3 instead of it, beside the packages that it names.
LISTING = "deps_batch.lst"
LOG = "dpkg.log"


def read_list(text: str) -> list[str]:
    """Return the file names in a deps_batch.lst: one a line, `#` begins a comment."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [name for name in map(os.path.basename, lines) if is_package(name)]


def is_package(name: str) -> bool:
    """Return whether a file is a package by its name: `._x.deb` is what a Mac puts beside x.deb."""
    return name.endswith(".deb") and not name.startswith("._")


def install(files: list[str], *, system: bool, laid_out: str, log: str) -> dict[str, object]:
    """Install what is not installed yet.

    With `system` dpkg installs (root only) and its output goes to the file `log`; otherwise the
    files are laid out below the directory `laid_out`, and its programs and libraries are named in
    the answer. Returns {"installed", "skipped", "path", "library_path"}. Raises AgentError 65, 71.
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
        dpkg.install([package.path for package in wanted], log)
    elif wanted:
        for package in wanted:
            _lay_out(package.path, laid_out)
        paths, libraries = search_paths(laid_out)
    names = [os.path.basename(package.path) for package in wanted]
    return {"installed": names, "skipped": skipped, "path": paths, "library_path": libraries}


def _sort_out(files: Sequence[str]) -> tuple[list[Package], list[str]]:
    """Split the files into those to install and the names of those that are installed already."""
    own = _ask(["dpkg", "--print-architecture"]).strip()
    known = {"all", own, *_ask(["dpkg", "--print-foreign-architectures"]).split()}
    there = _installed(own)
    wanted, skipped = [], []
    for package in deb_control.read(files):
        name = os.path.basename(package.path)
        if package.architecture not in known:
            raise AgentError(
                f"install {name}",
                f"built for {package.architecture}, this machine is {own}",
                code=BAD_ARCHIVE,
                hint=f"download the packages for {own}, or in the image:"
                f" dpkg --add-architecture {package.architecture}",
            )
        if _is_new_enough(there.get(_key(package.name, package.architecture, own), ""), package):
            skipped.append(name)
        else:
            wanted.append(package)
    return wanted, skipped


def _key(name: str, architecture: str, own: str) -> tuple[str, str]:
    """Return what identifies a package: one may be there for several architectures."""
    return name, own if architecture == "all" else architecture


def _installed(own: str) -> dict[tuple[str, str], str]:
    """Return the version of everything that is installed."""
    form = "${db:Status-Status} ${Package} ${Architecture} ${Version}\n"
    rows = (line.split(" ") for line in _ask(["dpkg-query", "-W", "-f", form]).splitlines())
    return {
        _key(row[1], row[2], own): row[3] for row in rows if len(row) == 4 and row[0] == "installed"
    }


def _is_new_enough(there: str, wanted: Package) -> bool:
    """Return whether the installed version is the wanted one or newer: nothing is downgraded."""
    if not there or there == wanted.version:
        return bool(there)
    compare = ["dpkg", "--compare-versions", there, "ge", wanted.version]
    return capture.run(compare).code == 0


def _lay_out(file: str, directory: str) -> None:
    done = capture.run(["dpkg-deb", "-x", file, directory])
    if done.code:
        lines = [line.strip() for line in done.err.splitlines() if line.strip()]
        raise AgentError(
            f"unpack {os.path.basename(file)}",
            " ".join(lines) or f"dpkg-deb exited with {done.code}",
            code=BAD_ARCHIVE,
            hint="download it again; if it is intact, check the disk: df -h",
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


def _ask(argv: list[str]) -> str:
    """Return what dpkg-query prints; without a database, nothing."""
    return capture.run(argv).out
