"""Find free ports."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack

from agent.core.errors import OS_ERROR, AgentError

_TRIES = 50


def free_ports(address: str, count: int) -> list[int]:
    """Return as many different free ports of one address."""
    try:
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
            for each in sockets:
                each.bind((address, 0))
            return [each.getsockname()[1] for each in sockets]
    except OSError as error:
        raise AgentError(
            f"listen on {address}",
            os.strerror(error.errno or errno.EIO),
            code=OS_ERROR,
            hint="start the nodes as processes: --no-docker",
        ) from error


def common_port(addresses: Sequence[str], kept: ExitStack) -> int:
    """Return one port that is free at every address, and reserved while `kept` is open.

    Sockets stay bound there. No program is given the port again, but a server that sets
    SO_REUSEADDR, as sshd does, may listen on it: Linux forbids that only while another one listens.
    """
    for _ in range(_TRIES):
        (port,) = free_ports(addresses[0], 1)
        with ExitStack() as stack:
            try:
                for address in addresses:
                    reserved = stack.enter_context(socket.socket())
                    reserved.bind((address, port))
                    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            except OSError:
                continue
            kept.push(stack.pop_all())
            return port
    raise AgentError(
        "find a port for sshd",
        f"no port is free on all of {', '.join(addresses)}",
        code=OS_ERROR,
        hint="stop programs that listen on 127.0.0.x",
    )
