"""Stage in the archives: fetch, check, unpack and install them. Runs in helper processes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

from agent.core import model
from agent.core.errors import NO_PERMISSION, AgentError, os_reason
from agent.core.model import Emit
from agent.core.s3_uri import S3Uri
from agent.staging import archive
from agent.staging.deps import fetch_deps, install_deps
from agent.staging.journal import JOURNAL
from agent.staging.probe import probe_results
from agent.staging.s3 import Storage


def _uri(fields: dict[str, str] | None) -> S3Uri | None:
    return S3Uri(**fields) if fields else None


def stage_in(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Fetch, check, unpack and install what the settings name, all at once.

    `request`: deps, private, probe (URIs or null), path_style, runtime_dir, opt, deps_dir,
    password, system. Returns {"fetched", "path", "library_path", "installed", "skipped"}.
    """
    private, deps, probe = (_uri(request[name]) for name in ("private", "deps", "probe"))
    answer: dict[str, Any] = {"fetched": [], "path": [], "library_path": []}
    if private or deps or probe:
        answer |= _fetch_and_unpack(private, deps, probe, request, emit)
    return answer


def stage_input(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Fetch one object. `request`: uri, path, path_style. Returns {"fetched"}."""
    storage = Storage(emit, path_style=request["path_style"])
    return {"fetched": [storage.fetch(S3Uri(**request["uri"]), request["path"])]}


def _fetch_and_unpack(
    private: S3Uri | None,
    deps: S3Uri | None,
    probe: S3Uri | None,
    request: dict[str, Any],
    emit: Emit,
) -> dict[str, Any]:
    storage = Storage(emit, path_style=request["path_style"])
    answer: dict[str, Any] = {"fetched": [], "path": [], "library_path": []}
    # Not waited for when one fails: the process ends, and with it what the others do.
    pool = ThreadPoolExecutor(3)
    fetches: dict[Future[Any], Callable[[], dict[str, Any]]] = {}
    if private:
        path = os.path.join(request["runtime_dir"], "private.7z")
        fetches[pool.submit(storage.fetch, private, path)] = lambda: _unpack_private(path, request)
    if deps:
        fetches[pool.submit(fetch_deps, storage, deps, request)] = lambda: install_deps(request)
    jobs: list[Future[Any]] = [pool.submit(probe_results, storage, probe)] if probe else []
    for waiting, fetched in enumerate(as_completed(fetches), 1):
        answer["fetched"] += _as_list(fetched.result())
        if waiting == len(fetches):
            emit({"phase": model.UNPACK})
        jobs.append(pool.submit(_timed, fetches[fetched], emit))
    for job in as_completed(jobs):
        answer |= job.result() or {}
    return answer


def _as_list(found: Any) -> list[dict[str, Any]]:
    return found if isinstance(found, list) else [found]


def _timed(action: Callable[[], dict[str, Any]], emit: Emit) -> dict[str, Any]:
    start = time.monotonic()
    answer = action()
    emit(
        {
            "log": "info",
            "event": "archive_unpacked",
            "seconds": round(time.monotonic() - start, 3),
            **answer,
        }
    )
    return answer


def _unpack_private(path: str, request: dict[str, Any]) -> dict[str, Any]:
    opt = request["opt"]
    # Below /opt, so that moving is renaming.
    fresh = os.path.join(opt, ".architrave-incoming")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        os.makedirs(fresh, mode=0o700)
    except OSError as error:
        raise AgentError(
            f"unpack into {opt}",
            os_reason(error),
            code=NO_PERMISSION,
            hint=f"run as root, or make {opt} writable for this user",
        ) from error
    try:
        archive.unpack_7z(path, fresh, request["password"], archive.OWN_NAMES)
        archive.move_into(fresh, opt, os.path.join(request["runtime_dir"], JOURNAL))
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        os.unlink(path)
    return {}
