"""Reach another node of the same job with paramiko. Runs in helper processes only."""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import uuid
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from agent.core.errors import NO_PERMISSION, TRY_AGAIN, AgentError
from agent.engine.lazy import import_lazily
from agent.multinode import ssh_keys

# paramiko imports it for local commands, which are never run here: half of all that it loads.
import_lazily("invoke")
# paramiko raises the same type for a refusal and for a server that goes away meanwhile.
_WENT_AWAY = ("transport shut down", "timeout")


def load() -> None:
    """Import what a connection needs, ahead of the first one."""
    import paramiko  # noqa: F401


class Sftp:
    """An SFTP session with one node, whose host key is the job's own; `timeout` is in seconds."""

    def __init__(self, address: str, port: int, user: str, directory: str, timeout: float) -> None:
        import paramiko

        what = f"connect to {address} port {port}"
        path = os.path.join(directory, ssh_keys.KNOWN_HOSTS)
        with open(path, encoding="ascii") as file:
            _, kind, encoded = file.read().split()[:3]
        self._client = paramiko.SSHClient()
        self._client.set_missing_host_key_policy(paramiko.RejectPolicy())
        host_key = paramiko.Ed25519Key(data=_decode(encoded))
        name = address if port == 22 else f"[{address}]:{port}"
        self._client.get_host_keys().add(name, kind, host_key)
        try:
            self._client.connect(
                address,
                port,
                user,
                key_filename=os.path.join(directory, ssh_keys.FILES_KEY),
                allow_agent=False,
                look_for_keys=False,
                timeout=timeout,
                banner_timeout=timeout,
                auth_timeout=timeout,
                channel_timeout=timeout,
            )
            self._sftp = self._client.open_sftp()
            channel = self._sftp.get_channel()
            assert channel is not None
            channel.settimeout(timeout)
        except (paramiko.BadHostKeyException, paramiko.AuthenticationException) as error:
            self._client.close()
            wrong_host = isinstance(error, paramiko.BadHostKeyException)
            if not wrong_host and any(message in str(error) for message in _WENT_AWAY):
                raise _unreachable(what, error) from error
            raise AgentError(
                what,
                "unexpected host key" if wrong_host else "public key refused",
                code=NO_PERMISSION,
                hint="use the same private.7z on all nodes, and start them in one attempt",
            ) from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            self._client.close()
            raise _unreachable(what, error) from error

    def __enter__(self) -> Sftp:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave."""
        self._client.close()

    @property
    def own_address(self) -> str:
        """Return the address that this node has on the way to the other one."""
        transport = self._client.get_transport()
        assert transport is not None
        address: Any = transport.sock
        return str(address.getsockname()[0])

    def read(self, path: str, limit: int = 1 << 20) -> bytes:
        """Return the beginning of a file."""
        with _as_os_error(), self._sftp.open(path, "rb") as file:
            return bytes(file.read(limit))

    def write(self, path: str, data: bytes, *, replace: bool = True) -> None:
        """Write a file atomically; without `replace` an existing one is an OSError.

        OpenSSH's plain rename links first, so it fails when another node was faster.
        """
        folder, name = posixpath.split(path)
        temporary = posixpath.join(folder, f".{name}.{uuid.uuid4().hex}")
        with _as_os_error():
            with self._sftp.open(temporary, "wb") as file:
                file.write(data)
            try:
                (self._sftp.posix_rename if replace else self._sftp.rename)(temporary, path)
            except OSError:
                self._sftp.remove(temporary)
                raise


def _unreachable(what: str, error: Exception) -> AgentError:
    hint = "allow all TCP ports between the nodes (security group)"
    return AgentError(what, str(error) or type(error).__name__, code=TRY_AGAIN, hint=hint)


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """Turn paramiko's error for a dropped connection, which is not an OSError, into one."""
    import paramiko

    try:
        yield
    except (paramiko.SSHException, EOFError) as error:
        raise ConnectionResetError(errno.ECONNRESET, str(error) or "connection lost") from error


def _decode(encoded: str) -> bytes:
    import base64

    return base64.b64decode(encoded)
