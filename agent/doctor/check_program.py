"""Check the application and its launcher without starting them."""

from __future__ import annotations

import os
import shutil

from agent.core.errors import (
    NOT_EXECUTABLE,
    NOT_FOUND,
    OS_ERROR,
    AgentError,
    os_reason,
)
from agent.doctor.context import Context
from agent.doctor.finding import PASS, SKIP, WARN, Check, Finding
from agent.engine import capture
from agent.launch import application, elf, mpi_use, mpirun

_ASK_SECONDS, _SECONDS = 10.0, 30.0
# The loader's exit code when a library is there, but too old for the program.
_TOO_OLD = 1


def program(context: Context) -> Finding:
    """See that the program is there, is for this machine, and finds what it needs to start."""
    settings, env = context.settings, context.app_env
    name = settings.command[0]
    here = context.here(name)
    lost = settings.private is not None and not context.unpacked
    if lost and name.startswith(settings.path("/opt/")) and not os.path.lexists(here):
        return Finding(SKIP, f"{name} is checked when private.7z can be unpacked")
    try:
        path = application.locate(here, env.get("PATH", os.defpath))
    except AgentError as error:
        raise _wrong(name, error.cause, error.code, error.hint) from error
    try:
        _may_run(name, path)
        found = elf.check(name, path, env.get("PATH", os.defpath), context.here)
    except OSError as error:
        raise _wrong(name, os_reason(error), NOT_EXECUTABLE, f"ls -l {name}") from error
    if isinstance(found, elf.Elf):
        return _elf(context, name, path, found)
    return Finding(PASS, f"{name}: a script for {' '.join(found)}")


def _wrong(name: str, cause: str, code: int, hint: str) -> AgentError:
    return AgentError(f"run {name}", cause, code=code, hint=hint)


def _may_run(name: str, path: str) -> None:
    """Raise AgentError (126) where the job could not make the program executable, or noexec."""
    status = os.stat(path)
    ours = os.geteuid() in (0, status.st_uid)
    if not os.access(path, os.X_OK) and not ours:
        cause = "not executable, and owned by another user"
        raise _wrong(name, cause, NOT_EXECUTABLE, f"chmod +x {name}")
    # What is to be in /opt may be elsewhere now.
    existing = name if name.startswith("/") else path
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    if os.statvfs(existing).f_flag & os.ST_NOEXEC:
        cause = f"the file system of {existing} is mounted noexec"
        raise _wrong(name, cause, NOT_EXECUTABLE, f"mount -o remount,exec {existing}")


def _elf(context: Context, name: str, path: str, program: elf.Elf) -> Finding:
    if not program.loader:
        return Finding(PASS, f"{name}: {program.machine_name}, statically linked")
    text = _listed(context, context.here(program.loader), path)
    if lost := elf.missing(text):
        cause = f"missing libraries: {', '.join(lost)}"
        raise _wrong(name, cause, NOT_FOUND, elf.MISSING_HINT)
    if new := elf.too_new(text):
        cause = f"requires newer libraries: {', '.join(new)}"
        raise _wrong(name, cause, _TOO_OLD, elf.advise_newer(new))
    return Finding(PASS, f"{name}: {program.machine_name}, all libraries found")


def _listed(context: Context, loader: str, path: str) -> str:
    """Return the loader's list of a program's libraries.

    Directories of /opt that the program itself names are looked for where they are now.
    """
    command, env = elf.listing(loader, path, context.app_env)
    text = _ask(command, env)
    if context.unpacked and elf.missing(text):
        opt = context.settings.path("/opt")
        tried = _ask(command, env | {"LD_DEBUG": "libs"}).split()
        files = [name.removeprefix("file=") for name in tried if name.startswith(f"file={opt}/")]
        found = {os.path.dirname(context.here(file)) for file in files}
        given = [path for path in [env.get("LD_LIBRARY_PATH", "")] if path]
        text = _ask(command, env | {"LD_LIBRARY_PATH": ":".join([*given, *sorted(found)])})
    return text


def _ask(argv: list[str], env: dict[str, str]) -> str:
    """Return what a small program writes."""
    done = capture.run(argv, env=env, seconds=_ASK_SECONDS)
    return done.out + done.err


def launcher(context: Context) -> Finding:
    """Report which launcher is used, and ask mpirun for its version."""
    settings, env = context.settings, context.app_env
    found = shutil.which("mpirun", path=env.get("PATH", os.defpath))
    command = [context.here(argument) for argument in settings.command]
    chosen = mpirun.launcher(
        settings.launch.launcher,
        found,
        settings.topology.count,
        bool(settings.launch.slots),
        lambda: mpi_use.uses_mpi(command, env, _ask),
    )
    if settings.launch.launcher in ("direct", "each"):
        return Finding(PASS, f"{chosen.name}: mpirun is not used")
    if not found:
        what = "direct: mpirun is not on PATH"
        if settings.topology.count == 1:
            return Finding(PASS, what)
        hint = "build the image with Open MPI, or set ARCHITRAVE_LAUNCHER=each"
        return Finding(WARN, f"{what}, so that only the main node runs the application", hint)
    if chosen.name == "direct":
        return Finding(PASS, f"direct: {chosen.why}")
    text = _ask([found, "--version"], env)
    mpirun.mpi_version(text)
    context.mpirun = text.splitlines()[0].rpartition(" ")[2]
    return Finding(PASS, f"mpirun: Open MPI {context.mpirun} ({found})")


_LATE = ("check the program", OS_ERROR, "check network file systems: mount | grep nfs")
CHECKS = (
    Check("program", program, _SECONDS, _LATE),
    Check("launcher", launcher, _SECONDS, _LATE),
)
