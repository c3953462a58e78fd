"""The command `architrave pack`: pack, and report what was packed."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from agent.core.errors import USAGE, AgentError
from agent.core.s3_uri import S3Uri, has_own_endpoint
from agent.staging.packages import LISTING
from agent.tools.cluster.job import DEFAULT_IMAGE
from agent.tools.commands.options import Commands, command, group
from agent.tools.pack import deps, private

_PRIVATE = """\
  architrave pack private program/                 # asks for the password
  architrave pack private program/ --password-file secret \\
      --upload s3://bucket/batch
"""
_DEPS = """\
  architrave pack deps libblas3 libgfortran5       # those that the image lacks
  architrave pack deps --binary program/app --upload s3://bucket/batch
"""


def add(commands: Commands) -> None:
    """Add `pack` with its commands."""
    pack_ = group(commands, "pack", "pack what a job fetches from S3", _PRIVATE + _DEPS)
    one = command(pack_, "private", "pack the program, its input and keys: private.7z",
                  _PRIVATE, _pack)  # fmt: skip
    one.add_argument(
        "directory", type=Path, metavar="DIR", help="directory whose content goes to /opt"
    )
    one.add_argument("--to", type=Path, default=Path("private.7z"), metavar="FILE",
                     help="the archive (private.7z)")  # fmt: skip
    which = one.add_mutually_exclusive_group()
    source = "file with the password (else PRIVATE_PASSWD, else a prompt)"
    which.add_argument("--password-file", type=Path, metavar="FILE", help=source)
    which.add_argument("--no-password", action="store_true", help="do not encrypt")
    one.add_argument("--level", type=int, choices=range(10), default=private.LEVEL, metavar="0-9",
                     help=f"compression; lower unpacks faster ({private.LEVEL})")  # fmt: skip
    one.set_defaults(make=_private)
    two = command(pack_, "deps", "pack the packages that the image lacks: deps.tar.gz",
                  _DEPS, _pack)  # fmt: skip
    two.add_argument(
        "packages", nargs="*", metavar="PACKAGE", help="Debian package; its dependencies are added"
    )
    two.add_argument("--binary", type=Path, action="append", default=[], metavar="FILE",
                     help="add the packages that provide its missing libraries")  # fmt: skip
    two.add_argument("--to", type=Path, default=Path("deps.tar.gz"), metavar="FILE",
                     help="the archive (deps.tar.gz), deps_batch.lst beside it")  # fmt: skip
    where = two.add_mutually_exclusive_group()
    where.add_argument("--image", default=DEFAULT_IMAGE, metavar="TAG",
                       help=f"the image that will run the job ({DEFAULT_IMAGE})")  # fmt: skip
    where.add_argument(
        "--here", action="store_true", help="resolve on this system, without a container"
    )
    two.set_defaults(make=_deps)
    for each in (one, two):
        each.add_argument(
            "--upload", default="", metavar="S3", help="also upload it, to s3://bucket/prefix"
        )


def _pack(options: argparse.Namespace) -> int:
    uri = S3Uri.parse(options.upload, "--upload") if options.upload else None
    for path in options.make(options):
        if uri is not None:
            _upload(path, uri / path.name)
    return 0


def _private(options: argparse.Namespace) -> list[Path]:
    # Before the password prompt, so that it isn't typed in vain.
    private.check_target(options.to, options.directory)
    secret = (
        "" if options.no_password else private.password(options.password_file, dict(os.environ))
    )
    with _Bar("packing") as bar:
        made = private.pack(
            options.directory, options.to, secret, level=options.level, progress=bar.at
        )
    print(made)
    return [options.to]


def _deps(options: argparse.Namespace) -> list[Path]:
    if not options.packages and not options.binary:
        hint = "architrave pack deps PACKAGE…, or --binary FILE"
        raise AgentError("pack deps", "no package and no binary is given", code=USAGE, hint=hint)
    private.check_target(options.to)
    image = None if options.here else options.image
    with tempfile.TemporaryDirectory() as work:
        found = deps.fetch(
            options.packages, options.binary, image, Path(work), lambda line: print(f"  {line}")
        )
        where = "this system" if options.here else image
        if not found:
            print(f"nothing is missing in {where}: no deps.tar.gz is needed")
            print("set S3_BATCH_DEPS_REL_PATH='<none>', else the job tries to fetch it")
            return []
        for deb in found:
            print(f"  {deb.name}")
        made = Path(work) / "deps.tar.gz"
        deps.pack(found, made)
        tried = "not installed to check it"
        if image is not None:
            print(f"installing in a container of {image}, as a job does", flush=True)
            if deps.install(made, image):
                tried = "installed to check it"
            else:
                tried += f": {image} has no architrave"
        for file in (made, made.with_name(LISTING)):
            shutil.move(file, options.to if file == made else options.to.with_name(LISTING))
    size, packages = options.to.stat().st_size / 1e6, "package" if len(found) == 1 else "packages"
    print(f"{options.to}: {len(found)} {packages} that {where} lacks, {size:.1f} MB, {tried}")
    return [options.to, options.to.with_name(LISTING)]


def _upload(path: Path, uri: S3Uri) -> None:
    from agent.staging.s3 import Storage

    storage = Storage(lambda message: None, path_style=has_own_endpoint(os.environ))
    size = path.stat().st_size or 1
    sent = 0
    with _Bar(f"to {uri}") as bar:

        def count(more: int) -> None:
            nonlocal sent
            sent += more
            bar.at(100 * sent // size)

        storage.put_file(str(path), uri, count)
    print(f"{uri}: uploaded")


class _Bar:
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self, what: str) -> None:
        self._progress: Any = None
        self._shown: AbstractContextManager[Any] = nullcontext()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self._progress = Progress(console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task(what, total=100)
            self._shown = self._progress

    def __enter__(self) -> _Bar:
        self._shown.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._shown.__exit__(*error)

    def at(self, percent: int) -> None:
        """Show how far it is."""
        if self._progress is not None:
            self._progress.update(self._task, completed=percent)
