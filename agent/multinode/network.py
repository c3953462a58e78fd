"""Find this node's address and interface."""

from __future__ import annotations

import fcntl
import socket
import struct

from agent.core.errors import BAD_SETTINGS, AgentError, bad

SIOCGIFADDR = 0x8915  # linux/sockios.h


def interface_address(name: str) -> str:
    """Return an interface's IPv4 address, empty if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(
                probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15])
            )
        except OSError:
            return ""
    return socket.inet_ntoa(answer[20:24])


def interface_of(address: str) -> str:
    """Return the interface that has this address; `lo` has all of 127.0.0.0/8."""
    if address.startswith("127."):
        return "lo"
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if interface_address(name) == address), "")


def address_towards(target: str) -> str:
    """Return the address that this machine uses to reach `target`, empty if it can't; nothing is
    sent.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((target, 9))
            return str(probe.getsockname()[0])
        except OSError:
            return ""


def default_interface() -> str:
    """Return the interface of the default route, else the first that isn't the loopback."""
    try:
        with open("/proc/net/route", encoding="ascii") as table:
            rows = [line.split() for line in table]
    except OSError:
        rows = []
    for row in rows[1:]:
        if row[1] == "00000000":
            return row[0]
    names = [name for _, name in socket.if_nameindex() if name != "lo"]
    return next((name for name in names if interface_address(name)), "lo")


def own_address(address: str, interface: str, main: str) -> str:
    """Return this node's address: the given one, the interface's, or the one towards main.

    Raises AgentError (78) when an interface is given that has none.
    """
    if address:
        return address
    if not interface and main:
        return address_towards(main) or interface_address(default_interface())
    chosen = interface or default_interface()
    found = interface_address(chosen)
    if not found:
        names = ", ".join(name for _, name in socket.if_nameindex())
        if interface:
            cause = "the interface has no IPv4 address"
            raise bad("ARCHITRAVE_INTERFACE", interface, cause, f"this node has {names}")
        raise AgentError(
            "find this node's address",
            f"the interface {chosen} has no IPv4 address",
            code=BAD_SETTINGS,
            hint=f"set ARCHITRAVE_INTERFACE or ARCHITRAVE_ADDRESS; this node has {names}",
        )
    return found
