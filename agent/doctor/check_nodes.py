"""Check what a node needs to join the others: keys, sshd, a port, an interface."""

from __future__ import annotations

import errno
import os
import socket

from agent.core.errors import OS_ERROR, AgentError, os_reason
from agent.doctor.context import Context
from agent.doctor.finding import PASS, SKIP, WARN, Check, Finding
from agent.engine import capture
from agent.multinode import network, ssh_keys
from agent.multinode.sshd import PRIVSEP, find_ssh, find_sshd, user_name

_SECONDS = 10.0
_LATE = ("check this node", OS_ERROR, "check the file systems: mount; df -h")
_SINGLE = Finding(SKIP, "not applicable: single-node job")


def interface(context: Context) -> Finding:
    """See that this node has an address, and that it is on the way to the main node."""
    settings = context.settings
    main = settings.topology.main_address
    if settings.topology.count == 1:
        return _SINGLE
    address = network.own_address(settings.network.address, settings.network.interface, main)
    if not address:
        cause, hint = "this node has no IPv4 address", "check ip -4 address"
        raise AgentError("reach the other nodes", cause, code=OS_ERROR, hint=hint)
    name = settings.network.interface or network.interface_of(address)
    towards = network.address_towards(main) if main else ""
    if main and not towards:
        cause, hint = (
            f"no route leads to the main node {main}",
            f"check the route: ip route get {main}",
        )
        raise AgentError("reach the other nodes", cause, code=OS_ERROR, hint=hint)
    if settings.network.interface and towards and network.interface_of(towards) not in (name, "lo"):
        way = network.interface_of(towards)
        what = f"{name} is set, but {way} routes to the main node {main}"
        return Finding(WARN, what, f"ARCHITRAVE_INTERFACE={way}, or leave it out")
    return Finding(PASS, f"{address} on {name or 'an unknown interface'}")


def port(context: Context) -> Finding:
    """See that sshd's port is free."""
    settings = context.settings
    if settings.topology.count == 1:
        return _SINGLE
    address = network.own_address(
        settings.network.address, settings.network.interface, settings.topology.main_address
    )
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, settings.network.ssh_port))
            probe.listen()
    except OSError as error:
        cause = os_reason(error)
        hint = "set ARCHITRAVE_SSH_PORT to a free port, the same on every node"
        if error.errno == errno.EACCES:
            hint = "ports below 1024 are root's: set ARCHITRAVE_SSH_PORT=2222 on every node"
        what = f"listen on {address} port {settings.network.ssh_port}"
        raise AgentError(what, cause, code=OS_ERROR, hint=hint) from error
    return Finding(PASS, f"{settings.network.ssh_port} on {address} is free")


def key(context: Context) -> Finding:
    """See that a job's keys can be made from the one in the archive; lay it where they are."""
    settings = context.settings
    if settings.topology.count == 1:
        return _SINGLE
    path = os.path.join(context.opt, settings.network.key_name)
    if not os.path.lexists(path):
        given = settings.path(f"/opt/{settings.network.key_name}")
        if settings.private is not None and not context.unpacked and not os.path.exists(given):
            return Finding(SKIP, "checked when private.7z can be unpacked")
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.symlink(given, path)
    ssh_keys.check_key(path)
    context.ssh_ready = True
    return Finding(PASS, f"{settings.network.key_name} is a private key")


def sshd(context: Context) -> Finding:
    """See that sshd and ssh are here, and what sshd asks of the system."""
    if context.settings.topology.count == 1:
        return _SINGLE
    program = find_sshd()
    find_ssh(context.app_env.get("PATH", os.defpath))
    user = user_name()
    if os.geteuid() == 0 and not os.path.isdir(PRIVSEP) and not os.access("/run", os.W_OK):
        hint = f"docker run --tmpfs /run, or mkdir {PRIVSEP} in the image"
        raise AgentError("start sshd", f"{PRIVSEP} is missing", code=OS_ERROR, hint=hint)
    done = capture.run([program, "-V"], seconds=_SECONDS)
    version = next((line for line in done.err.splitlines() if "OpenSSH" in line), "sshd")
    return Finding(PASS, f"{version.split(',')[0]} as {user}")


CHECKS = (
    Check("interface", interface, _SECONDS, _LATE),
    Check("port", port, _SECONDS, _LATE),
    Check("ssh key", key, _SECONDS, _LATE),
    Check("sshd", sshd, _SECONDS, _LATE),
)
