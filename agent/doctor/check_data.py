"""Check the data of a job: archives, password, packages, results, clock, disk."""

from __future__ import annotations

import os
import shutil
import time
from email.utils import parsedate_to_datetime

from agent.core.errors import (
    CANNOT_WRITE,
    NO_PERMISSION,
    OS_ERROR,
    S3_UNREACHABLE,
    AgentError,
    NotThere,
    os_reason,
)
from agent.core.s3_uri import S3Uri
from agent.core.settings import LAMBDA, SHELL
from agent.core.units import size as size_text
from agent.doctor.context import Context
from agent.doctor.finding import FAIL, PASS, SKIP, WARN, Check, Finding
from agent.staging import archive, deps
from agent.staging.probe import probe_results

# The first allows for two requests to S3; whole archives are fetched within the second.
_ASK_SECONDS, _FETCH_SECONDS, _DISK_SECONDS = 15.0, 900.0, 5.0
# Above the first, clients of applications may fail; above the second, S3 refuses requests
# (RequestTimeTooSkewed): https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_SKEW_SECONDS, _REFUSED_SECONDS = 5.0, 900.0
_SPARE = 256 << 20


def private(context: Context) -> Finding:
    """See that private.7z is there and may be read; report its size before it is fetched."""
    uri = context.settings.private
    if uri is None:
        return _switched_off(context, "S3_BATCH_PRIVATE_REL_PATH")
    context.private_size = _look(context, uri)
    context.private_there = True
    return Finding(PASS, f"{uri}, {size_text(context.private_size)}")


def _look(context: Context, uri: S3Uri) -> int:
    size, context.date = context.storage.look(uri)
    context.received = time.time()
    return size


def _switched_off(context: Context, name: str) -> Finding:
    if context.settings.mode == LAMBDA:
        return Finding(SKIP, "lambda mode fetches nothing: everything is in the image")
    if context.settings.mode == SHELL and not context.settings.staging_asked:
        return Finding(SKIP, "a shell fetches nothing unless S3_BUCKET is set")
    return Finding(SKIP, f"{name} switches it off")


def unpacking(context: Context) -> Finding:
    """Fetch private.7z, try the password, unpack it for the checks that look into it."""
    settings = context.settings
    if not context.private_there:
        return Finding(SKIP, "no archive to unpack")
    assert settings.private is not None
    path = os.path.join(context.scratch, "private.7z")
    free = shutil.disk_usage(context.scratch).free
    if context.private_size > free:
        raise _no_space(settings.path("/tmp"), context.private_size, free)
    context.storage.fetch(settings.private, path)
    context.unpacked_size = archive.unpacked_size(path, settings.password, archive.OWN_NAMES)
    size = size_text(context.unpacked_size)
    free = shutil.disk_usage(context.scratch).free
    if context.unpacked_size > free:
        os.unlink(path)
        what = f"not unpacked, {size}: {size_text(free)} are free in {context.scratch}"
        return Finding(WARN, what, f"free space in {settings.path('/tmp')} for this check")
    archive.unpack_7z(path, context.opt, settings.password, archive.OWN_NAMES)
    os.unlink(path)
    context.unpacked = True
    how = "with the password" if settings.password else "without a password"
    return Finding(PASS, f"it unpacks {how} to {size}")


def packages(context: Context) -> Finding:
    """Fetch the dependencies and lay them out: nothing is installed."""
    uri = context.settings.deps
    if uri is None:
        return _switched_off(context, "S3_BATCH_DEPS_REL_PATH")
    if not context.deps_there:
        return Finding(SKIP, "no packages to unpack")
    unpacked = os.path.join(context.scratch, "unpacked-deps")
    os.makedirs(unpacked, exist_ok=True)
    request = {"runtime_dir": context.scratch, "deps_dir": unpacked, "system": False}
    fetched = deps.fetch_deps(context.storage, uri, request)
    context.deps_size = sum(one["size"] for one in fetched)
    answer = deps.install_deps(request)
    context.path, context.library_path = answer["path"], answer["library_path"]
    context.deps_unpacked_size = _size_below(unpacked)
    new, old = len(answer["installed"]), len(answer["skipped"])
    return Finding(PASS, f"{new} to install, {old} installed already; none was installed now")


def _size_below(directory: str) -> int:
    return sum(
        os.lstat(os.path.join(folder, name)).st_size
        for folder, _, names in os.walk(directory)
        for name in names
    )


def deps_there(context: Context) -> Finding:
    """See that deps.tar.gz, or the list instead of it, is there and may be read."""
    uri = context.settings.deps
    if uri is None:
        return _switched_off(context, "S3_BATCH_DEPS_REL_PATH")
    try:
        size = _look(context, uri)
    except NotThere as missing:
        uri = deps.list_beside(uri)
        try:
            size = _look(context, uri)
        except NotThere:
            raise missing from None
    context.deps_there = True
    return Finding(PASS, f"{uri}, {size_text(size)}")


def results(context: Context) -> Finding:
    """Write an empty object where results will go, and remove it."""
    settings = context.settings
    probe = settings.probe
    if probe is None:
        return Finding(SKIP, f"nothing is uploaded: results stay in {settings.output_dir}")
    if not context.date:
        try:
            _look(context, probe)
        except AgentError:
            pass  # only S3's time was wanted
    probe_results(context.storage, probe)
    return Finding(PASS, f"{settings.output} can be written")


def clock(context: Context) -> Finding:
    """Compare this machine's clock with S3's, which signatures are checked by."""
    if not context.date:
        return Finding(SKIP, "S3 sent no time")
    skew = context.received - parsedate_to_datetime(context.date).timestamp()
    # The header has whole seconds.
    off = max(0.0, abs(skew) - 1)
    what = f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} S3's"
    hint = "set this machine's clock (chronyc makestep), or that of the machine it runs on"
    if off > _REFUSED_SECONDS:
        what += ", and S3 refuses requests that are 15 minutes off"
        return Finding(FAIL, what, hint, NO_PERMISSION)
    if off > _SKEW_SECONDS:
        return Finding(WARN, what, hint)
    return Finding(PASS, f"within {_SKEW_SECONDS:.0f} s of S3's")


def disk(context: Context) -> list[Finding]:
    """Compare each file system's free space with what the job puts there."""
    settings = context.settings
    needs = {settings.output_dir: 0, **context.needs}
    by_device: dict[int, list[str]] = {}
    for path, size in needs.items():
        if size or path != settings.path("/opt"):
            by_device.setdefault(os.stat(_nearest(path)).st_dev, []).append(path)
    # What this doctor has unpacked takes the same space, and is removed.
    given_back = {os.stat(context.scratch).st_dev: _size_below(context.scratch)}
    return [
        _room(paths, sum(needs[path] for path in paths), given_back.get(device, 0))
        for device, paths in by_device.items()
    ]


def _room(paths: list[str], needed: int, given_back: int) -> Finding:
    names = ", ".join(paths)
    free = shutil.disk_usage(_nearest(paths[0])).free + given_back
    what = f"{names}: {size_text(free)} free"
    if needed:
        what += f", the archives take {size_text(needed)}"
    hint = "give the container a larger disk; df -h"
    if needed > free:
        return Finding(FAIL, what, hint, OS_ERROR)
    if free - needed < _SPARE:
        return Finding(WARN, f"{what}: little is left for results", hint)
    return Finding(PASS, what)


def _no_space(path: str, size: int, free: int) -> AgentError:
    cause = f"needs {size_text(size)}, {size_text(free)} are free in {path}"
    hint = "give the container a larger disk"
    return AgentError("fetch private.7z", cause, code=OS_ERROR, hint=hint)


def writable(context: Context) -> list[Finding]:
    """See that what the job makes can be made, without making it."""
    settings = context.settings
    paths = {
        "/tmp": NO_PERMISSION,
        settings.output_dir: CANNOT_WRITE,
        settings.launch.workdir: CANNOT_WRITE,
    }
    if settings.private is not None:
        paths["/opt"] = NO_PERMISSION
    wrong = []
    for path, code in paths.items():
        where = settings.path(path) if path in ("/tmp", "/opt") else path
        if not where or os.access(_nearest(where), os.W_OK | os.X_OK):
            continue
        cause = f"this user (uid {os.geteuid()}) may not write {_nearest(where)}"
        hint = f"run as root, or make {_nearest(where)} writable for this user"
        wrong.append(Finding.of(AgentError(f"write {where}", cause, code=code, hint=hint)))
    return wrong or [Finding(PASS, "every directory of the job can be written")]


def _nearest(path: str) -> str:
    """Return a path, or the nearest one above it that exists."""
    while path != "/":
        try:
            os.stat(path)
        except FileNotFoundError:
            path = os.path.dirname(path)
        except OSError as error:
            what, hint = f"read {path}", f"check its permissions: ls -ld {path}"
            raise AgentError(what, os_reason(error), code=OS_ERROR, hint=hint) from error
        else:
            return path
    return path


_S3_LATE = (
    "use S3",
    S3_UNREACHABLE,
    "check the network and AWS_ENDPOINT_URL_S3: curl -m 5 $AWS_ENDPOINT_URL_S3",
)
_DISK_LATE = (
    "check the disks",
    OS_ERROR,
    "check network file systems: mount | grep nfs",
)

CHECKS = (
    Check("writable", writable, _DISK_SECONDS, _DISK_LATE),
    Check("private.7z", private, _ASK_SECONDS, _S3_LATE),
    Check("deps.tar.gz", deps_there, _ASK_SECONDS, _S3_LATE),
    Check("results", results, _ASK_SECONDS, _S3_LATE),
    Check("clock", clock, _DISK_SECONDS, _S3_LATE),
    Check("archive", unpacking, _FETCH_SECONDS, _S3_LATE),
    Check("packages", packages, _FETCH_SECONDS, _S3_LATE),
    Check("disk", disk, _DISK_SECONDS, _DISK_LATE),
)
