"""Stage in the archives and stage out the results. Runs in helper processes."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from agent.core import model
from agent.core.errors import NO_PERMISSION, AgentError, NotThere, why
from agent.core.model import Emit
from agent.core.settings import JOURNAL, S3Place
from agent.multinode import ssh_keys
from agent.report import writer
from agent.staging import archive, packages
from agent.staging.s3 import MANY, SMALL, Storage
from agent.staging.uploader import File, Sender

_UPLOADS_AT_ONCE = 8
_TELL_SECONDS = 0.2
# Of the results that could not be uploaded so many are told one by one.
_NAMED = 1000
# What the image keeps in /opt and no archive may replace.
OWN_NAMES = {"architrave", "run.sh", "run_batch.sh"}


def _place(fields: dict[str, str] | None) -> S3Place | None:
    return S3Place(**fields) if fields else None


def stage_in(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Fetch, check, unpack and install what the settings name, all at once; then make the keys.

    `request`: deps, private, probe (places or null), path_style, runtime_dir, opt, deps_dir,
    password, system, identity (null on a single node, see `identity.prepare`). Returns {"fetched",
    "path", "library_path", "installed", "skipped"}.
    """
    private, deps, probe = (_place(request[name]) for name in ("private", "deps", "probe"))
    answer: dict[str, Any] = {"fetched": [], "path": [], "library_path": []}
    if private or deps or probe:
        answer |= _fetch_and_unpack(private, deps, probe, request, emit)
    if request["identity"]:
        ssh_keys.prepare(request["identity"])
    return answer


def stage_input(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Fetch one object. `request`: place, path, path_style. Returns {"fetched"}."""
    storage = Storage(emit, path_style=request["path_style"])
    return {"fetched": [storage.fetch(S3Place(**request["place"]), request["path"])]}


def _fetch_and_unpack(
    private: S3Place | None,
    deps: S3Place | None,
    probe: S3Place | None,
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
    jobs: list[Future[Any]] = [pool.submit(probe_place, storage, probe)] if probe else []
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
            "event": "unpacked",
            "seconds": round(time.monotonic() - start, 3),
            **answer,
        }
    )
    return answer


def probe_place(storage: Storage, place: S3Place) -> None:
    """Find out in the first minute, not after ten hours, whether results can be written."""
    storage.put(b"", place)
    storage.remove(place)


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
            why(error),
            code=NO_PERMISSION,
            hint=f"run as root, or make {opt} writable for this user",
        ) from error
    try:
        archive.unpack_7z(path, fresh, request["password"], OWN_NAMES)
        archive.move_into(fresh, opt, os.path.join(request["runtime_dir"], JOURNAL))
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        os.unlink(path)
    return {}


def fetch_deps(storage: Storage, place: S3Place, request: dict[str, Any]) -> list[dict[str, Any]]:
    """Fetch deps.tar.gz, or the list that stands in its place and each package beside it."""
    target = request["deps_dir"]
    if place.key.endswith(".lst"):
        return fetch_listed(storage, place, storage.read(place), target)
    try:
        return [storage.fetch(place, os.path.join(request["runtime_dir"], "deps.tar.gz"))]
    except AgentError as error:
        if not _may_be_absent(error):
            raise
        missing = error
    listing = list_beside(place)
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
    """Tell whether there may be no such object: who may not list the bucket is refused instead."""
    return isinstance(error, NotThere) or error.code == NO_PERMISSION


def list_beside(deps: S3Place) -> S3Place:
    """Return the list that may stand in the stead of deps.tar.gz."""
    return S3Place(deps.bucket, os.path.join(os.path.dirname(deps.key), packages.LISTING))


def fetch_listed(
    storage: Storage, place: S3Place, content: bytes, target: str
) -> list[dict[str, Any]]:
    """Fetch the packages that a deps_batch.lst names beside itself, several at once."""
    Path(target, packages.LISTING).write_bytes(content)
    folder = os.path.dirname(place.key)
    names = packages.read_list(content.decode("utf-8", "replace"))
    with ThreadPoolExecutor(_UPLOADS_AT_ONCE) as pool:
        return list(
            pool.map(
                lambda name: storage.fetch_small(
                    S3Place(place.bucket, os.path.join(folder, name)), os.path.join(target, name)
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
            shutil.rmtree(target, ignore_errors=True)  # half of it is of no use
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
                f"deps_batch.lst names {', '.join(missing)}, which is not there",
                code=65,
                hint="pack the missing files, or take them off the list",
            )
        found = {name: found[name] for name in names}
    laid_out = os.path.join(request["runtime_dir"], "deps")
    log = os.path.join(request["runtime_dir"], packages.LOG)
    files = list(found.values())
    return packages.install(files, system=request["system"], laid_out=laid_out, log=log)


def stage_out(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Upload files below one prefix, several at once; one that fails doesn't hold up the rest.

    `request`: place, node (its name below the place), path_style, directory, list (a file of names
    in it, each with a NUL behind it), stored (the file to which what S3 has is appended, a line
    {"name", "size", "sha256"} each; what is in it isn't sent again), own (paths of those that lie
    elsewhere, by name), afresh (remove an older manifest first), patient (wait for credentials).
    Emits {"stored": count} now and then, at the end {"uploaded": {"count", "lost" (counts),
    "failed": [{"name", "what", "cause", "code", "hint"}, the first of them]}}. Then two lines on
    standard input: {"record": what `recording.write` is asked}, answered by {"recorded": true} as
    soon as run.json can be read, which is uploaded; {"page": a path or null}, which may fail, and
    after which the manifest is uploaded, if there is to be one.
    """
    place = S3Place(**request["place"])
    patient = request.get("patient", True)
    storage = Storage(emit, path_style=request["path_style"], patient=patient)
    if request.get("afresh"):
        storage.remove(place / "manifest.json")
    emit({"uploaded": _upload(storage, place / request["node"], request, emit)})
    asked = json.loads(sys.stdin.readline() or "{}").get("record")
    if asked is None:
        return {}
    writer.write(asked)
    emit({"recorded": True})
    _put_document(storage, place / writer.RUN, asked["run"])
    page = json.loads(sys.stdin.readline() or "{}").get("page")
    if page:
        _put_page(storage, place / "report.html", page, emit)
    if asked["manifest"]:
        _put_document(storage, place / writer.MANIFEST, asked["manifest"])
    return {}


def _put_document(storage: Storage, place: S3Place, path: str) -> None:
    if os.path.getsize(path) <= SMALL:
        storage.put(Path(path).read_bytes(), place)
        return
    with open(path, "rb") as file:
        storage.put_file(file, place, lambda count: None)


def _put_page(storage: Storage, place: S3Place, path: str, emit: Emit) -> None:
    """Write the page where a browser will show it; without it the record is complete."""
    try:
        text = Path(path).read_bytes()
        storage.put(text, place, ContentType="text/html; charset=utf-8")
    except AgentError as error:
        emit({"log": "warning", "event": str(error), "hint": error.hint})


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _upload(
    storage: Storage, place: S3Place, request: dict[str, Any], emit: Emit
) -> dict[str, Any]:
    directory, own = request["directory"], request["own"]

    def path_of(name: str) -> str:
        return own.get(name) or os.path.join(directory, name)

    names = {os.fsdecode(name) for name in Path(request["list"]).read_bytes().split(b"\0") if name}
    earlier = {one["name"] for one in writer.files(request["stored"])}
    names -= earlier
    failed: list[File] = []
    count, lost, told_at = len(earlier), 0, time.monotonic()
    with open(request["stored"], "a", encoding="utf-8") as list_:
        list_.write("\n")  # the last line of an earlier try may be cut short

        def stored(file: File) -> None:
            nonlocal count, told_at
            count += 1
            list_.write(json.dumps(file) + "\n")
            if time.monotonic() - told_at > _TELL_SECONDS:
                list_.flush()
                emit({"stored": count})
                told_at = time.monotonic()

        def fail(file: File) -> None:
            nonlocal lost
            lost += 1
            if lost <= _NAMED:
                failed.append(file)

        Sender(
            storage,
            place,
            path_of,
            many=len(names) >= MANY,
            size=sum(_size(path_of(name)) for name in names),
            emit=emit,
            stored=stored,
            failed=fail,
        ).send(sorted(names))
    writer.sort(request["stored"])
    return {"count": count, "lost": lost, "failed": failed}
