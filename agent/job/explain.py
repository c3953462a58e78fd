"""Explain what a job would do, and where each of its settings comes from. Touches nothing."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from agent.core import variables
from agent.core.environ import region
from agent.core.errors import AgentError
from agent.core.model import Node
from agent.core.settings import SHELL, Settings
from agent.core.variables import Variable
from agent.job.ask import ask
from agent.job.launch_command import LaunchCommand
from agent.job.shell import start_line
from agent.job.ssh_access import SshAccess
from agent.job.supervisor import Supervisor
from agent.launch import cgroup
from agent.multinode import network


def explain(supervisor: Supervisor, env: Mapping[str, str]) -> str:
    """Return the page: this node, the settings with their sources, the phases with commands."""
    settings, scrub = supervisor.settings, supervisor.log.scrub
    choice = LaunchCommand(settings, partial(ask, supervisor))
    lines = [*_node(settings, env), ""]
    resolved = _resolved(settings, choice)
    for title, group in variables.GROUPS.items():
        lines += [title, *(_setting(name, env, resolved, scrub) for name in group), ""]
    if given := [name for name in sorted(env) if name.startswith("AWS_BATCH_JOB_")]:
        values = (f"  {name:36} {scrub(env[name])!r}  (set by AWS Batch)" for name in given)
        lines += ["AWS Batch", *values, ""]
    lines += [*_s3(env), *_unknown(env), "what would run", *_phases(supervisor, choice)]
    return "\n".join(lines) + "\n"


def _s3(env: Mapping[str, str]) -> Iterator[str]:
    """Yield what the AWS SDK's own names choose, if any of them is set."""
    endpoint = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    chosen = {"endpoint": endpoint, "region": region(env)}
    if any(chosen.values()):
        yield "S3"
        yield from (f"  {name:36} {value}" for name, value in chosen.items() if value)
        yield ""


def _node(settings: Settings, env: Mapping[str, str]) -> Iterator[str]:
    topology = settings.topology
    role = "single" if topology.count == 1 else topology.name(topology.index)
    if env.get("EXEC_TYPE", "").lower() == SHELL:
        yield f"a debug shell, in which `{start_line(env)}` would do as follows"
    yield f"mode {settings.mode}, node {topology.index} of {topology.count} ({role}), job" \
        f" {topology.job}, attempt {topology.attempt}"  # fmt: skip


def _resolved(settings: Settings, choice: LaunchCommand) -> dict[str, str]:
    """Return the values here of names that are not set and whose default depends on the node."""
    return {
        "EXEC_TYPE": settings.mode,
        "TMP_OUTPUT_DIR": settings.output_dir,
        "ARCHITRAVE_OUTPUT": str(settings.output or "<none>"),
        "ARCHITRAVE_SSH_PORT": str(settings.network.ssh_port),
        "ARCHITRAVE_LAUNCHER": _auto(settings, choice),
        "ARCHITRAVE_SLOTS": str(cgroup.slots(settings)),
        "ARCHITRAVE_WORKDIR": settings.launch.workdir or os.getcwd(),
        "AWS_BATCH_EXIT_CODE_FILE": settings.exit_code_file,
    }


def _launcher(settings: Settings, choice: LaunchCommand) -> str:
    """Return the launcher that is set, or the one that `auto` selects with what is here now."""
    return (
        choice.launcher(settings.app_env)
        if settings.launch.launcher == "auto"
        else settings.launch.launcher
    )


def _auto(settings: Settings, choice: LaunchCommand) -> str:
    """Return what `auto` resolves to; if the program is missing, what that will depend on."""
    path = settings.app_env.get("PATH", os.defpath)
    name = _launcher(settings, choice)
    mpirun, program = (shutil.which(word, path=path) for word in ("mpirun", choice.command[0]))
    if name == "direct" and mpirun and not program:
        return "auto: mpirun if the program uses MPI, else direct"
    return f"auto: {name}"


def _setting(
    variable: Variable,
    env: Mapping[str, str],
    resolved: Mapping[str, str],
    scrub: Callable[[str], str],
) -> str:
    name = variable.name
    if name not in env:
        value = scrub(resolved.get(name) or variable.default_text or "-")
        return f"  {name:36} {value}  (default)"
    value = "***" if variable.secret and env[name] else repr(scrub(env[name]))
    return f"  {name:36} {value}  (set)"


def _unknown(env: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each unknown variable with our prefix."""
    for name, near in variables.unknown(env).items():
        yield f"  {name:36} unknown variable{f', did you mean {near}?' if near else ''}"


def _phases(supervisor: Supervisor, choice: LaunchCommand) -> Iterator[str]:
    settings = supervisor.settings
    topology = settings.topology
    if settings.private or settings.deps:
        uris = [str(uri) for uri in (settings.private, settings.deps) if uri]
        yield f"  fetch   {' and '.join(uris)}, at once"
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
        port, key = settings.network.ssh_port, settings.network.key_name
        yield f"  join    sshd on port {port}, keys derived from {key}"
        waits = f"workers {_several(topology.workers)}" if topology.is_main else "the main node"
        yield f"          waits {settings.network.join_timeout:g} s for {waits}"
    yield from _run(supervisor, choice)
    if topology.count > 1:
        yield "  release the outcome goes to every node; each uploads and reports to the main node"
    if settings.results_uri is None:
        yield f"  upload  nothing: results stay in {settings.output_dir}"
    else:
        results = settings.results_uri / f"node-{topology.index}"
        yield f"  upload  {settings.output_dir} to {results}"
    yield f"  end     the exit code to {settings.exit_code_file}; what was unpacked is removed"


def _run(supervisor: Supervisor, choice: LaunchCommand) -> Iterator[str]:
    settings, env = supervisor.settings, supervisor.settings.app_env
    program = settings.command[0]
    launcher = _launcher(settings, choice)
    if not settings.topology.is_main and launcher != "each":
        if settings.launch.launcher == "direct":
            yield "  run     nothing: the launcher is direct, only the main node runs the program"
        elif launcher == "direct":
            yield "  run     nothing, unless the archives contain mpirun"
        else:
            yield "  run     what the main node's mpirun starts here"
        return
    if not shutil.which(program, path=env.get("PATH", os.defpath)):
        yield f"  run     {program} is not there yet, or not executable yet"
    try:
        argv = _argv(supervisor, choice)
    except AgentError as error:
        yield f"  run     {error}"
        return
    yield f"  run     {shlex.join(supervisor.log.scrub(argv))}"
    where = settings.launch.workdir or os.getcwd()
    limit = f"{settings.limits.timeout:g} s" if settings.limits.timeout else "no limit"
    yield f"          in {where}, {limit}, {settings.limits.grace:g} s from SIGTERM to SIGKILL"
    if settings.launch.stdin:
        yield f"          with standard input from {os.path.join(where, settings.launch.stdin)}"
    several = settings.topology.count > 1 and launcher != "direct"
    given = {*settings.helper_env, variables.PRIVATE_PASSWD.name}
    hidden = [name for name in variables.HIDDEN if name in given]
    where = "each process has the environment of its own node" if several else "its environment"
    yield f"          {where}{', ' if several else ' is this one '}without {', '.join(hidden)}"


def _argv(supervisor: Supervisor, choice: LaunchCommand) -> list[str]:
    """Return the exact arguments that would start the application."""
    settings, topology = supervisor.settings, supervisor.settings.topology
    address = ""
    if topology.count > 1:
        address = network.own_address(
            settings.network.address, settings.network.interface, topology.main_address
        )
        choice.ask_version(settings.app_env)
    node = Node(topology.index, address, cgroup.slots(settings))
    ssh = SshAccess(supervisor).command
    return choice.argv(list(choice.command), settings.app_env, node, ssh)


def _several(indexes: list[int]) -> str:
    """Return a few of many indexes."""
    shown = [str(index) for index in indexes[:8]]
    return ", ".join([*shown, *(["…"] if len(indexes) > 8 else [])])
