"""Fetch and install the dependencies: deps.tar.gz, or a list of packages."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agent.core.errors import NO_PERMISSION, AgentError, NotThere
from agent.core.s3_uri import S3Uri
from agent.staging import archive, packages
from agent.staging.s3 import Storage

_FETCHES_AT_ONCE = 8


def fetch_deps(storage: Storage, uri: S3Uri, request: dict[str, Any]) -> list[dict[str, Any]]:
    """Fetch deps.tar.gz, or the list instead of it and each package beside the list."""
    target = request["deps_dir"]
    if uri.key.endswith(".lst"):
        return fetch_listed(storage, uri, storage.read(uri), target)
    try:
        return [storage.fetch(uri, os.path.join(request["runtime_dir"], "deps.tar.gz"))]
    except AgentError as error:
        if not _may_be_absent(error):
            raise
        missing = error
    listing = list_beside(uri)
    try:
        content = storage.read(listing)
    except AgentError as error:
        if not _may_be_absent(error):
            raise
        # Most images need no packages.
        missing.hint += "; a job that needs none: S3_BATCH_DEPS_REL_PATH='<none>'"
        raise missing from None
    return fetch_listed(storage, listing, content, target)


def _may_be_absent(error: AgentError) -> bool:
    """Return whether the object may be missing: without s3:ListBucket S3 refuses instead."""
    return isinstance(error, NotThere) or error.code == NO_PERMISSION


def list_beside(deps: S3Uri) -> S3Uri:
    """Return the list that may replace deps.tar.gz."""
    return S3Uri(deps.bucket, os.path.join(os.path.dirname(deps.key), packages.LISTING))


def fetch_listed(storage: Storage, uri: S3Uri, content: bytes, target: str) -> list[dict[str, Any]]:
    """Fetch the packages that a deps_batch.lst names beside itself, several at once."""
    Path(target, packages.LISTING).write_bytes(content)
    folder = os.path.dirname(uri.key)
    names = packages.read_list(content.decode("utf-8", "replace"))
    with ThreadPoolExecutor(_FETCHES_AT_ONCE) as pool:
        return list(
            pool.map(
                lambda name: storage.fetch_small(
                    S3Uri(uri.bucket, os.path.join(folder, name)), os.path.join(target, name)
                ),
                names,
            )
        )


def install_deps(request: dict[str, Any]) -> dict[str, Any]:
    """Install what `fetch_deps` has fetched.

    `request`: deps_dir, runtime_dir (dpkg's output goes to dpkg.log there), system.
    """
    target = request["deps_dir"]
    tar = os.path.join(request["runtime_dir"], "deps.tar.gz")
    if os.path.exists(tar):
        try:
            archive.unpack_tar(tar, target)
        except AgentError:
            shutil.rmtree(target, ignore_errors=True)  # half of it is useless
            os.makedirs(target, exist_ok=True)
            raise
        finally:
            os.unlink(tar)
    paths = sorted(Path(target).rglob("*.deb"))
    found = {path.name: str(path) for path in paths if packages.is_package(path.name)}
    listed = next(Path(target).rglob(packages.LISTING), None)
    if listed:
        names = packages.read_list(listed.read_text("utf-8", "replace"))
        missing = [name for name in names if name not in found]
        if missing:
            raise AgentError(
                "install the dependencies",
                f"deps_batch.lst names {', '.join(missing)}, which is missing",
                code=65,
                hint="pack the missing files, or remove them from the list",
            )
        found = {name: found[name] for name in names}
    laid_out = os.path.join(request["runtime_dir"], "deps")
    log = os.path.join(request["runtime_dir"], packages.LOG)
    files = list(found.values())
    return packages.install(files, system=request["system"], laid_out=laid_out, log=log)
