"""Run nodes as containers on a private Docker network."""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from agent.core.errors import S3_UNREACHABLE, AgentError
from agent.tools.cluster import leftovers, spawn
from agent.tools.cluster.job import job_of, node_name

_ANSWER_SECONDS = 20.0
_STARTS_AT_ONCE = 4
_LOOK_SECONDS = 0.03
_FREEZE_TRIES = 5
_LABEL = "architrave.cluster"
_OWNER = "architrave.owner"
_NODE, _JOB = "architrave.node", "architrave.job"
UNAVAILABLE = S3_UNREACHABLE  # 69, EX_UNAVAILABLE: something this job needs does not answer


def engine_answers() -> bool:
    """Return whether a Docker engine can be reached."""
    try:
        return bool(_docker("version", "--format", "{{.Server.Version}}"))
    except AgentError:
        return False


def shell_on(node: str, job: str, *, terminal: bool) -> list[str] | None:
    """Return the command for a shell on the named node, of the latest job with this id prefix."""
    form = "\t".join(("{{.Names}}", f'{{{{.Label "{_NODE}"}}}}', f'{{{{.Label "{_JOB}"}}}}'))
    for line in _try("ps", "--filter", f"label={_LABEL}", "--format", form).splitlines():
        name, called, its = line.split("\t")
        if called == node and its.startswith(job):
            options = "-it" if terminal else "-i"
            return [_program(), "exec", options, name, "/opt/architrave/bin/architrave", "shell"]
    return None


class Containers:
    """A private bridge network and the containers on it; `name` is unique to the cluster."""

    def __init__(self, name: str, image: str, docker_args: tuple[str, ...] = ()) -> None:
        self.description = f"containers of {image}"
        self.host_address = ""
        self._name = name
        self._image = image
        self._docker_args = docker_args
        self._nodes: list[Container] = []
        self._subnet: ipaddress.IPv4Network

    def open(self) -> None:
        """Check the image and create the network; raise AgentError (69).

        Addresses can be chosen only in an explicit subnet, so the engine's own choice is read and
        then set: workers get the main node's address before it runs.
        """
        try:
            _docker("image", "inspect", "--format", "{{.Id}}", self._image)
        except AgentError as error:
            raise AgentError(
                f"start containers of {self._image}",
                error.cause,
                code=UNAVAILABLE,
                hint=f"scripts/build-image -t {self._image}, docker pull, or --no-docker",
            ) from error
        _remove_leftovers()
        create = ("network", "create", "--driver", "bridge", *self._label)
        for again in (True, False):
            _docker(*create, self._name)
            template = "{{(index .IPAM.Config 0).Subnet}}"
            subnet = _docker("network", "inspect", "--format", template, self._name)
            _docker("network", "rm", self._name)
            try:
                _docker(*create, "--subnet", subnet, self._name)
                break
            except AgentError:  # another program was given it meanwhile
                if not again:
                    raise
        self._subnet = ipaddress.IPv4Network(subnet)
        self.host_address = str(self._subnet[1])

    def close(self) -> None:
        """Remove the containers and the network."""
        for node in self._nodes:
            node.remove()
        # By label as well: a container may exist whose `docker create` was interrupted.
        listed = _try("ps", "--all", "--quiet", "--filter", f"label={_LABEL}={self._name}")
        if listed:
            _try("rm", "--force", "--volumes", *listed.split())
        _try("network", "rm", self._name)

    def address_of(self, index: int) -> str:
        """Return a node's address, also before it starts."""
        return str(self._subnet[index + 2])  # after the network's own and the gateway's

    def start(self, envs: Mapping[int, Mapping[str, str]]) -> dict[int, Container]:
        """Create and start a container for each index, several at once; raise AgentError (69)."""
        with ThreadPoolExecutor(_STARTS_AT_ONCE) as pool:
            names = dict(zip(envs, pool.map(self._create, envs, envs.values()), strict=True))
        nodes: dict[int, Container] = {}
        # In this thread: what follows a container's output ends with the thread that started it.
        for number, (index, name) in enumerate(names.items()):
            nodes[index] = Container(name, self._image, self.address_of(index))
            self._nodes.append(nodes[index])
            if number >= _STARTS_AT_ONCE:
                self._nodes[-1 - _STARTS_AT_ONCE].wait_start()
        for node in nodes.values():
            node.wait_start()
        return nodes

    def _create(self, index: int, env: Mapping[str, str]) -> str:
        container = f"{self._name}-{index}"
        _docker(
            "create",
            *("--name", container, "--hostname", f"node-{index}"),
            *("--network", self._name, "--ip", self.address_of(index)),
            *self._label,
            *("--label", f"{_NODE}={node_name(env)}", "--label", f"{_JOB}={job_of(env)}"),
            # The logs are in the results; `docker logs --follow` loses and repeats some.
            *("--log-driver", "none"),
            *_by_name(env),
            *self._docker_args,
            self._image,
            env=env,
        )
        return container

    @property
    def _label(self) -> tuple[str, ...]:
        return "--label", f"{_LABEL}={self._name}", "--label", f"{_OWNER}={leftovers.owner()}"


class Container:
    """One container, and the docker program that starts it and follows its output."""

    def __init__(self, name: str, image: str, address: str) -> None:
        self.name = name
        self.address = address
        self.started = 0.0
        self._image = image
        self._follower = spawn.start([_program(), "start", "--attach", name])

    def wait_start(self) -> None:
        """Wait until the container has started; raise AgentError (69) if it can't be."""
        while not self.started:
            over = self._follower.poll() is not None
            when = _docker("inspect", "--format", "{{.State.StartedAt}}", self.name)
            if not when.startswith("0001"):
                self.started = time.time()
            elif over:
                lines = self.stderr.read().decode("utf-8", "replace").strip().splitlines()
                raise _failed(("start",), lines[0] if lines else "no reason given")
            else:
                time.sleep(_LOOK_SECONDS)

    @property
    def stdout(self) -> IO[bytes]:
        """Return what the container writes to stdout."""
        assert self._follower.stdout is not None
        return self._follower.stdout

    @property
    def stderr(self) -> IO[bytes]:
        """Return what the container writes to stderr."""
        assert self._follower.stderr is not None
        return self._follower.stderr

    def wait(self) -> int:
        """Wait for the container's exit; return its exit code, 137 if it was removed."""
        self._follower.wait()
        # No limit: the container exits by itself, or `remove` kills it.
        code = _try("wait", self.name, timeout=None)
        return int(code) if code.isdigit() else 137

    def signal(self, number: int) -> None:
        """Send a signal to the agent, which is the container's PID 1."""
        _try("kill", "--signal", str(int(number)), self.name)

    def kill(self) -> None:
        """Kill the container."""
        _try("kill", "--signal", "KILL", self.name)

    def cut(self) -> None:
        """Cut the container's network at the host's end: no peer sees a FIN."""
        self._set_cable("down")

    def mend(self) -> None:
        """Connect it again."""
        self._set_cable("up")

    def _set_cable(self, state: str) -> None:
        """Set the machine's end of the container's network device up or down.

        By a container on the machine's own network, so that only the engine needs to be root. A
        node that has exited meanwhile has no such device any more.
        """
        try:
            self._try_cable(state)
        except AgentError:
            if self._runs():
                raise

    def _try_cable(self, state: str) -> None:
        number = _docker("exec", self.name, "cat", "/sys/class/net/eth0/iflink")
        script = (
            f"for each in /sys/class/net/*/ifindex; do [ $(cat $each) = {number} ] || continue; "
            f"each=${{each%/ifindex}}; exec ip link set ${{each##*/}} {state}; done; exit 1"
        )
        self._run("host", script)

    def in_network(self, script: str) -> None:
        """Run a shell script as the administrator of the container's network."""
        self._run(f"container:{self.name}", script)

    def _run(self, network: str, script: str) -> None:
        options = ("--network", network, "--cap-add", "NET_ADMIN", "--entrypoint", "/bin/sh")
        _docker("run", "--rm", *options, self._image, "-c", script)

    def freeze(self) -> None:
        """Freeze every process in the container.

        The engine may fail to freeze one whose processes start others meanwhile (cgroup v1).
        """
        for left in reversed(range(_FREEZE_TRIES)):
            try:
                _docker("pause", self.name)
                return
            except AgentError:
                if not (left and self._runs()):
                    raise
                time.sleep(_LOOK_SECONDS)

    def _runs(self) -> bool:
        return _try("inspect", "--format", "{{.State.Running}}", self.name) == "true"

    def thaw(self) -> None:
        """Resume a frozen container."""
        _try("unpause", self.name)

    def remove(self) -> None:
        """Remove the container, running or not."""
        _try("rm", "--force", "--volumes", self.name)
        self._follower.kill()
        self._follower.wait()


def _remove_leftovers() -> None:
    """Remove containers and networks of clusters that were killed before they could remove them."""
    form = '{{.ID}} {{.Label "' + _OWNER + '"}}'
    for kind, remove in (("container", ("rm", "--force", "--volumes")), ("network", ("rm",))):
        every = ("--all",) if kind == "container" else ()
        listed = _try(kind, "ls", *every, "--filter", f"label={_OWNER}", "--format", form)
        for line in listed.splitlines():
            identity, _, owner = line.partition(" ")
            if leftovers.is_gone(owner):
                _try(kind, *remove, identity)


def _by_name(env: Mapping[str, str]) -> list[str]:
    """Return the arguments that pass an environment on.

    Values go through the docker program's own environment: any user can see arguments.
    Those that configure the docker program itself can't, and are not secrets.
    """
    return [argument for name in env for argument in ("--env", _steering(name, env) or name)]


def _steering(name: str, env: Mapping[str, str]) -> str:
    steers = name in ("HOME", "PATH") or name.startswith("DOCKER_")
    return f"{name}={env[name]}" if steers else ""


def _docker(
    *arguments: str, env: Mapping[str, str] | None = None, timeout: float | None = 120
) -> str:
    """Run docker and return its output; raise AgentError (69)."""
    if arguments[0] == "version":
        timeout = _ANSWER_SECONDS
    passed = {name: value for name, value in (env or {}).items() if not _steering(name, env or {})}
    try:
        done = subprocess.run(
            [_program(), *arguments],
            env={**os.environ, **passed},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            # A Ctrl-C on the terminal is for this program to handle.
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise _failed(arguments, f"no answer within {error.timeout:.0f} s") from error
    if done.returncode:
        raise _failed(arguments, (done.stderr.strip() or "no reason given").splitlines()[-1])
    return done.stdout.strip()


def _try(*arguments: str, timeout: float | None = 60) -> str:
    """Run docker and return its output, empty if it fails."""
    try:
        return _docker(*arguments, timeout=timeout)
    except AgentError:
        return ""


def _program() -> str:
    found = shutil.which("docker")
    if found is None:
        raise _failed(("",), "docker is not installed")
    return found


def _failed(arguments: tuple[str, ...], cause: str) -> AgentError:
    return AgentError(
        f"run docker {arguments[0]}".strip(),
        cause.removeprefix("Error response from daemon: "),
        code=UNAVAILABLE,
        hint="check the Docker engine: docker info; or use --no-docker",
    )
