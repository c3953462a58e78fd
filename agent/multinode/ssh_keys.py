"""Make the SSH identity of one attempt of one job, and the files that sshd and ssh need.

Both key pairs, the host's and the user's, are derived from the private key in the archive, the
job and the attempt: every node makes the same ones without talking to any other, a node of another
job or attempt makes others, and nothing in /etc/ssh or in a home directory is touched.
"""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from agent.core.errors import BAD_ARCHIVE, NO_PERMISSION, AgentError, os_reason

HOST_ALIAS = "architrave-node"
# With the user key a launcher starts its daemons, in the application's environment; with the files
# key agents write and read readiness files, and nothing else.
HOST_KEY, USER_KEY, FILES_KEY = "host_key", "user_key", "files_key"
ENVIRONMENT = "environment"
AUTHORIZED_KEYS, KNOWN_HOSTS = "authorized_keys", "known_hosts"
SSHD_CONFIG, SSH_CONFIG = "sshd_config", "ssh_config"


def prepare(request: dict[str, Any]) -> None:
    """Write keys and configurations into `directory`. Runs in a helper process.

    `request`: key_file, directory, batch, job, attempt, address, port, user, nodes, heartbeat, and
    rlimits, which what a launcher starts here gets.
    Raises AgentError 65 when there is no key, 77 when it can't be read.
    """
    seed_of = _seeds(request["key_file"], request["job"], request["attempt"])
    directory = request["directory"]
    os.makedirs(directory, mode=0o700, exist_ok=True)
    host_private, host_public = _key_pair(seed_of("host"))
    user_private, user_public = _key_pair(seed_of("user"))
    files_private, files_public = _key_pair(seed_of("files"))
    files = {
        HOST_KEY: host_private,
        USER_KEY: user_private,
        FILES_KEY: files_private,
        AUTHORIZED_KEYS: authorized_keys(request, user_public, files_public),
        KNOWN_HOSTS: f"{HOST_ALIAS} {host_public}\n",
        SSHD_CONFIG: sshd_config(request),
        SSH_CONFIG: ssh_config(request),
    }
    for name, text in files.items():
        _write(os.path.join(directory, name), text)


def _seeds(path: str, job: str, attempt: int) -> Any:
    import hmac  # 3 MiB, which no agent needs, only the helper that makes the keys

    secret = check_key(path)

    def seed_of(purpose: str) -> bytes:
        label = f"architrave ssh 1\0{job}\0{attempt}\0{purpose}".encode()
        return hmac.digest(secret, label, "sha256")

    return seed_of


def check_key(path: str) -> bytes:
    """Return a private key's text; raise AgentError 65 where there is none, 77 if unreadable."""
    try:
        with open(path, "rb") as file:
            secret = file.read().replace(b"\r\n", b"\n").strip()
    except OSError as error:
        name = os.path.basename(path)
        missing = isinstance(error, FileNotFoundError)
        raise AgentError(
            "make this job's SSH keys",
            f"{name}: {os_reason(error)}",
            code=BAD_ARCHIVE if missing else NO_PERMISSION,
            hint=f"architrave pack private DIR makes it: {name} at the root of private.7z",
        ) from error
    if not secret.startswith(b"-----BEGIN ") or b"PRIVATE KEY-----" not in secret:
        raise AgentError(
            f"use the key {path}",
            "not a private key",
            code=BAD_ARCHIVE,
            hint="pack a private key made by ssh-keygen",
        )
    return secret


def _key_pair(seed: bytes) -> tuple[str, str]:
    """Return an Ed25519 key pair in OpenSSH's form; `seed` has 32 bytes."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(seed)
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption())
    public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
    return private.decode(), public.decode()


def authorized_keys(request: Mapping[str, Any], user_public: str, files_public: str) -> str:
    """Return authorized_keys: a key may start processes in the application's environment, or SFTP.

    Without SHLVL bash reads the user's start file for each command from outside (bash(1), "Invoked
    by remote shell daemon"), and what that prints, waits for or exits with would affect the launch.
    """
    session = os.path.join(os.path.dirname(__file__), "ssh_session.py")
    environment = os.path.join(request["directory"], ENVIRONMENT)
    limits = [":".join(map(str, limit)) for limit in request["rlimits"]]
    argv = [sys.executable, "-I", "-S", session, environment, *limits]
    start = _quoted(shlex.join(argv))
    files = _quoted(f"internal-sftp -d {shlex.quote(request['batch'])}")
    return (
        f'restrict,environment="SHLVL=1",command={start} {user_public}\n'
        f"restrict,command={files} {files_public}\n"
    )


def _quoted(command: str) -> str:
    """Return a value as sshd(8) reads options: in quotes, a quote in it behind a backslash."""
    return '"' + command.replace('"', '\\"') + '"'


def write_environment(directory: str, env: Mapping[str, str]) -> None:
    """Write what `session` gives to each process that a launcher starts on this node."""
    _write(os.path.join(directory, ENVIRONMENT), "".join(f"{n}={v}\0" for n, v in env.items()))


def sshd_config(request: Mapping[str, Any]) -> str:
    """Return sshd's configuration: this job's key, this user, and nothing else."""
    directory = request["directory"]
    lines = [
        f"Port {request['port']}",
        f"ListenAddress {request['address']}",
        f"HostKey {directory}/{HOST_KEY}",
        f"AuthorizedKeysFile {directory}/{AUTHORIZED_KEYS}",
        f"AllowUsers {request['user']}",
        "AuthenticationMethods publickey",
        "PubkeyAuthentication yes",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
        "UsePAM no",
        # The directory is 0700 and made by us; what is above it may be /tmp, which sshd refuses.
        "StrictModes no",
        "DisableForwarding yes",
        "PermitTunnel no",
        # For the one variable in authorized_keys; `session` replaces all of them.
        "PermitUserEnvironment yes",
        "PermitUserRC no",
        "UseDNS no",
        "PrintMotd no",
        "PrintLastLog no",
        "PidFile none",
        # All nodes arrive at once, and mpirun opens one more session to each (sshd_config(5):
        # above MaxStartups connections are refused at random).
        f"MaxStartups {max(64, 4 * int(request['nodes']))}",
        f"MaxSessions {max(64, 4 * int(request['nodes']))}",
        "LoginGraceTime 30",
        f"ClientAliveInterval {math.ceil(request['heartbeat'])}",
        "ClientAliveCountMax 5",
        # The agent waits for "Server listening".
        "LogLevel INFO",
        # Names are relative to the readiness files, wherever this node keeps them.
        f"Subsystem sftp internal-sftp -d {request['batch']}",
    ]
    return "\n".join(lines) + "\n"


def ssh_config(request: Mapping[str, Any]) -> str:
    """Return the configuration for every ssh that the job's launcher starts."""
    directory = request["directory"]
    lines = [
        "Host *",
        f"Port {request['port']}",
        f"User {request['user']}",
        f"IdentityFile {directory}/{USER_KEY}",
        "IdentitiesOnly yes",
        "IdentityAgent none",
        f"UserKnownHostsFile {directory}/{KNOWN_HOSTS}",
        "GlobalKnownHostsFile /dev/null",
        f"HostKeyAlias {HOST_ALIAS}",
        "StrictHostKeyChecking yes",
        "UpdateHostKeys no",
        "BatchMode yes",
        # OpenSSH 9 would take sntrup761: 0.1 s of processor time for each login, by which the main
        # node starts mpirun's daemons. What MPI sends between nodes isn't encrypted at all.
        "KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256,"
        "diffie-hellman-group14-sha256",
        "ConnectTimeout 10",
        "ConnectionAttempts 3",
        f"ServerAliveInterval {math.ceil(request['heartbeat'])}",
        "ServerAliveCountMax 5",
        "LogLevel ERROR",
    ]
    return "\n".join(lines) + "\n"


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
