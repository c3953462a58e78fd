"""Explain what a job would do, and where each of its settings comes from. Touches nothing."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from agent.core import variables
from agent.core.environ import region
from agent.core.errors import AgentError
from agent.core.settings import SECRETS, SHELL
from agent.core.variables import Name
from agent.job.main_node import MainNode
from agent.job.shell import start_line
from agent.job.single import Job
from agent.multinode import network

_GROUPS = {
    "application": variables.APPLICATION,
    "data": variables.DATA,
    "several nodes": variables.SEVERAL_NODES,
    "running": variables.RUNNING,
}


def explain(job: Job, env: Mapping[str, str]) -> str:
    """Return the page: this node, the settings with their sources, the phases with commands."""
    lines = [*_node(job, env), ""]
    resolved = _resolved(job)
    for title, group in _GROUPS.items():
        lines += [title, *(_setting(name, env, resolved, job.log.scrub) for name in group), ""]
    if given := [name for name in sorted(env) if name.startswith("AWS_BATCH_JOB_")]:
        told = (f"  {name:36} {job.log.scrub(env[name])!r}  (set by AWS Batch)" for name in given)
        lines += ["AWS Batch", *told, ""]
    lines += [*_s3(env), *_unknown(env), "what would run", *_phases(job)]
    return "\n".join(lines) + "\n"


def _s3(env: Mapping[str, str]) -> Iterator[str]:
    """Yield what the AWS SDK's own names choose, if any of them is set."""
    endpoint = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    chosen = {"endpoint": endpoint, "region": region(env)}
    if any(chosen.values()):
        yield "S3"
        yield from (f"  {name:36} {value}" for name, value in chosen.items() if value)
        yield ""


def _node(job: Job, env: Mapping[str, str]) -> Iterator[str]:
    topology = job.settings.topology
    role = "alone" if topology.count == 1 else topology.name(topology.index)
    if env.get("EXEC_TYPE", "").lower() == SHELL:
        yield f"a debug shell, in which `{start_line(env)}` would do as follows"
    yield f"mode {job.settings.mode}, node {topology.index} of {topology.count} ({role}), job" \
        f" {topology.job}, attempt {topology.attempt}"  # fmt: skip


def _resolved(job: Job) -> dict[str, str]:
    """Return the values here of names that are not set and whose default depends on the node."""
    settings = job.settings
    return {
        "EXEC_TYPE": settings.mode,
        "TMP_OUTPUT_DIR": settings.output_dir,
        "ARCHITRAVE_OUTPUT": str(settings.output or "<none>"),
        "ARCHITRAVE_SSH_PORT": str(settings.ssh_port),
        "ARCHITRAVE_LAUNCHER": _auto(job),
        "ARCHITRAVE_SLOTS": str(job.slots),
        "ARCHITRAVE_WORKDIR": settings.workdir or os.getcwd(),
        "AWS_BATCH_EXIT_CODE_FILE": settings.exit_code_file,
    }


def _launcher(job: Job) -> str:
    """Return the launcher that is set, or the one that `auto` selects with what is here now."""
    chosen = job.settings.launcher
    return job.launcher(job.app_env()) if chosen == "auto" else chosen


def _auto(job: Job) -> str:
    """Return what `auto` comes to; without the program, on what it will depend."""
    env = job.app_env()
    name = _launcher(job)
    mpirun, program = (
        shutil.which(word, path=env.get("PATH", os.defpath))
        for word in ("mpirun", job.command_here[0])
    )
    if name == "direct" and mpirun and not program:
        return "auto: mpirun if the program uses MPI, else direct"
    return f"auto: {name}"


def _setting(
    name: Name, env: Mapping[str, str], resolved: Mapping[str, str], scrub: Callable[[str], str]
) -> str:
    if name.name not in env:
        value = scrub(resolved.get(name.name) or name.default or "-")
        return f"  {name.name:36} {value}  (default)"
    value = "***" if name.secret and env[name.name] else repr(scrub(env[name.name]))
    return f"  {name.name:36} {value}  (set)"


def _unknown(env: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each variable that looks like ours and is none: a slip of the pen."""
    for name, near in variables.unknown(env).items():
        yield f"  {name:36} unknown variable{f', did you mean {near}?' if near else ''}"


def _phases(job: Job) -> Iterator[str]:
    settings = job.settings
    topology = settings.topology
    if settings.private or settings.deps:
        places = [str(place) for place in (settings.private, settings.deps) if place]
        yield f"  fetch   {' and '.join(places)}, at once"
    if settings.private:
        password = "the password on standard input" if settings.password else "without a password"
        yield f"  unpack  7zz x private.7z into {settings.path('/opt')}, {password}"
    if settings.deps:
        system = os.geteuid() == 0 and settings.root == "/"
        how = (
            "apt-get or dpkg installs what is missing"
            if system
            else "extracted only, since dpkg needs root"
        )
        yield f"  unpack  deps.tar.gz into {settings.path('/tmp/deps')}; {how}"
    if topology.count > 1:
        yield f"  join    sshd on port {settings.ssh_port}, keys derived from {settings.key_name}"
        waits = f"workers {_several(topology.workers)}" if topology.is_main else "the main node"
        yield f"          waits {settings.join_timeout:g} s for {waits}"
    yield from _run(job)
    if topology.count > 1:
        yield "  release the outcome goes to every node; each uploads and reports to the main node"
    if job.destination is None:
        yield f"  upload  nothing: results stay in {settings.output_dir}"
    else:
        yield f"  upload  {settings.output_dir} to {job.destination / f'node-{topology.index}'}"
    yield f"  end     the exit code to {settings.exit_code_file}; what was unpacked is removed"


def _run(job: Job) -> Iterator[str]:
    settings = job.settings
    env = job.app_env()
    program = settings.command[0]
    launcher = _launcher(job)
    if not settings.topology.is_main and launcher != "each":
        if settings.launcher == "direct":
            yield "  run     nothing: the launcher is direct, only the main node runs the program"
        elif launcher == "direct":
            yield "  run     nothing, unless the archives have an mpirun"
        else:
            yield "  run     what the main node's mpirun starts here"
        return
    if not shutil.which(program, path=env.get("PATH", os.defpath)):
        yield f"  run     {program} is missing yet, or is not executable yet"
    try:
        words = _command(job, env)
    except AgentError as error:
        yield f"  run     {error}"
        return
    yield f"  run     {shlex.join(job.log.scrub(words))}"
    where = settings.workdir or os.getcwd()
    limit = f"{settings.timeout:g} s" if settings.timeout else "no limit"
    yield f"          in {where}, {limit}, {settings.grace:g} s from SIGTERM to SIGKILL"
    several = settings.topology.count > 1 and launcher != "direct"
    hidden = [name for name in SECRETS if name in settings.helper_env or name == "PRIVATE_PASSWD"]
    where = "each process has the environment of its own node" if several else "its environment"
    yield f"          {where}{', ' if several else ' is this one '}without {', '.join(hidden)}"


def _command(job: Job, env: dict[str, str]) -> list[str]:
    """Return the exact command that would start the application."""
    settings = job.settings
    address = ""
    if settings.topology.count > 1:
        address = network.own_address(
            settings.address, settings.interface, settings.topology.main_address
        )
    job.node = replace(job.node, address=address, slots=job.slots)
    if isinstance(job, MainNode):
        job.ask_version()
    return job.argv(job.launcher(env), list(job.command_here))


def _several(indexes: list[int]) -> str:
    """Return a few of many indexes."""
    shown = [str(index) for index in indexes[:8]]
    return ", ".join([*shown, *(["…"] if len(indexes) > 8 else [])])
