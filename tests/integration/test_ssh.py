"""Keys and sshd: the job's own, checked strictly both ways, with the real OpenSSH."""

import hashlib
import os
import pwd
import resource
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import paramiko
import pytest

from agent.core.errors import AgentError
from agent.multinode import ssh_keys
from agent.multinode.sftp import Sftp
from tests.support.basics import until

USER = os.environ.get("USER") or "root"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def prepare(directory, key, port, job="job", attempt=1, env=None):
    (directory / "batch").mkdir(parents=True, exist_ok=True)
    ssh_keys.prepare(
        {
            "key_file": str(key),
            "directory": str(directory),
            "batch": str(directory / "batch"),
            "job": job,
            "attempt": attempt,
            "address": "127.0.0.1",
            "port": port,
            "user": USER,
            "nodes": 2,
            "heartbeat": 2,
            "rlimits": [(resource.RLIMIT_NOFILE, 512, 1024)],
        }
    )
    ssh_keys.write_environment(str(directory), env or {"PATH": "/only/this:/usr/bin:/bin"})
    return directory


@pytest.fixture
def server(tmp_path, keys):
    """Run sshd as the agent does; return (directory, port)."""
    port = free_port()
    directory = prepare(tmp_path / "server", keys / "ssh_host_rsa_key", port)
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)
    process = subprocess.Popen(
        [
            shutil.which("sshd", path="/usr/sbin:/usr/bin"),
            "-D",
            "-e",
            "-f",
            directory / "sshd_config",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "Server listening" in process.stderr.readline()
    yield directory, port
    process.kill()
    process.wait()


def ssh(directory, *arguments):
    return subprocess.run(
        ["ssh", "-F", directory / "ssh_config", "127.0.0.1", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
    )


def connect(directory, port):
    return Sftp("127.0.0.1", port, USER, str(directory), 10)


@pytest.mark.cell("security.other-job")
def test_same_archive_same_keys(tmp_path, keys):
    """Every node derives the same identity; another job, attempt or archive gives another one."""
    key = keys / "ssh_host_rsa_key"
    other = tmp_path / "other_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", other], check=True)
    made = {
        name: (prepare(tmp_path / name, path, 2222, job, attempt) / "known_hosts").read_text()
        for name, path, job, attempt in (
            ("a", key, "job", 1),
            ("b", key, "job", 1),
            ("c", key, "job", 2),
            ("d", key, "job2", 1),
            ("e", other, "job", 1),
        )
    }
    assert made["a"] == made["b"]
    assert len(set(made.values())) == 4
    user = (tmp_path / "a/authorized_keys").read_text().split()[-1]
    assert user != made["a"].split()[-1]


@pytest.mark.cell("security.key-modes")
def test_only_the_owner_can_read(tmp_path, keys):
    directory = prepare(tmp_path / "x", keys / "ssh_host_rsa_key", 2222)
    for name in ("host_key", "user_key", "files_key", "authorized_keys", "environment"):
        assert (directory / name).stat().st_mode & 0o777 == 0o600


def test_a_session_has_the_application_s_limits(server):
    command = ["ssh", "-F", server[0] / "ssh_config", "127.0.0.1", "ulimit -n; ulimit -Hn"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == ["512", "1024"], done.stderr


def test_a_session_has_the_node_s_own_environment(server):
    """What a launcher starts on another node has exactly that node's environment, byte for byte."""
    env = {
        "PATH": "/only/this:/usr/bin:/bin",
        "LM_LICENSE_FILE": "27000@licence.example",
        "JSON": '{"a": ["it\'s", "\\\\", "$HOME `id`"]}',
        "LINES": "one\ntwo\n\n",
        "EMPTY": "",
        "LATIN": "\udce9",
        "LONG": "x" * 100_000,
        "SHLVL": "7",
    }
    ssh_keys.write_environment(str(server[0]), env)
    done = subprocess.run(
        ["ssh", "-F", server[0] / "ssh_config", "127.0.0.1", "/usr/bin/env", "-0"],
        capture_output=True,
        timeout=30,
        env=os.environ | {"LM_LICENSE_FILE": "the caller's"},
    )
    assert done.returncode == 0, done.stderr
    seen = dict(pair.split(b"=", 1) for pair in done.stdout.split(b"\0") if pair)
    # A shell in between counts itself, and says where it is.
    allowed = {b"PWD", b"OLDPWD", b"SHLVL", b"_"}
    sent = {os.fsencode(name): os.fsencode(value) for name, value in env.items()}
    assert {n: v for n, v in seen.items() if n not in allowed} == {
        n: v for n, v in sent.items() if n not in allowed
    }


@pytest.mark.parametrize("code", [0, 7, 255])
def test_a_session_passes_on_what_its_command_prints(server, code):
    """Its standard input, output and exit code; the arguments arrive as they were typed."""
    done = subprocess.run(
        ["ssh", "-F", server[0] / "ssh_config", "127.0.0.1", f"cat; echo 'a  b'; exit {code}"],
        input="in\n",
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (code, "in\na  b\n")


@pytest.mark.cell("security.sshd")
def test_the_key_for_files_starts_nothing(server):
    """With it one reads and writes files; a command that is asked for is not run."""
    marker = server[0] / "started"
    ssh(server[0], "-i", server[0] / "files_key", f"touch {marker}")
    assert not marker.exists()


def test_paramiko_comes_in_and_writes(server):
    directory, port = server
    with connect(directory, port) as remote:
        remote.write("one.json", b"{}")
        remote.write("one.json", b"{2}")
        with pytest.raises(OSError):
            remote.write("one.json", b"{3}", replace=False)
        assert remote.read("one.json") == b"{2}"
        assert remote.own_address == "127.0.0.1"
    assert sorted(os.listdir(directory / "batch")) == ["one.json"]


@pytest.mark.cell("nodes.wrong-key", "security.host-keys")
def test_wrong_host_key_is_refused(server, tmp_path, keys):
    """A server with another job's host key gets nothing: neither from ssh nor from paramiko."""
    directory, port = server
    other = prepare(tmp_path / "other", keys / "ssh_host_rsa_key", port, job="another")
    for key in ("user_key", "files_key"):
        shutil.copy(directory / key, other / key)
    done = ssh(other, "true")
    assert done.returncode == 255 and "verification failed" in done.stderr
    with pytest.raises(AgentError) as caught:
        connect(other, port)
    assert caught.value.code == 77 and "host key" in caught.value.cause


@pytest.mark.cell("nodes.wrong-key", "security.host-keys")
def test_a_stranger_s_key_is_refused(server, tmp_path, keys):
    directory, port = server
    other = prepare(tmp_path / "other", keys / "ssh_host_rsa_key", port, job="another")
    shutil.copy(directory / "known_hosts", other / "known_hosts")
    assert ssh(other, "true").returncode == 255
    with pytest.raises(AgentError) as caught:
        connect(other, port)
    assert caught.value.code == 77 and "key" in caught.value.cause


def test_a_server_that_goes_away_refuses_no_key(tmp_path, keys):
    """A main node that ends while a worker shows its key says nothing about that key: 75."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        directory = prepare(tmp_path / "x", keys / "ssh_host_rsa_key", port)

        class Leaves(paramiko.ServerInterface):
            def check_auth_publickey(self, username, key):
                transport.close()
                return paramiko.AUTH_FAILED

        def serve():
            nonlocal transport
            transport = paramiko.Transport(listener.accept()[0])
            transport.add_server_key(paramiko.Ed25519Key(filename=str(directory / "host_key")))
            transport.start_server(server=Leaves())

        transport = None
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(AgentError) as caught:
            connect(directory, port)
        thread.join(10)
    assert caught.value.code == 75


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "PreferredAuthentications=password"],
        ["-o", "PreferredAuthentications=keyboard-interactive"],
        ["-l", "daemon"],
    ],
)
@pytest.mark.cell("security.sshd")
def test_only_this_key_and_this_user(server, arguments):
    assert ssh(server[0], *arguments, "true").returncode == 255


@pytest.mark.cell("security.sshd")
def test_no_forwarding(server):
    directory, _ = server
    done = ssh(
        directory, "-o", "ExitOnForwardFailure=yes", "-R", f"{free_port()}:127.0.0.1:1", "true"
    )
    assert done.returncode == 255


def test_nothing_of_the_system_is_touched(request):
    """The host's ssh and sudo configuration and the home directory's .ssh stay as they are."""
    before = of_the_system()  # before the keys and configurations are made
    directory, _ = request.getfixturevalue("server")
    for file in ("ssh_config", "sshd_config"):
        assert "/etc/" not in (directory / file).read_text()
    assert "UserKnownHostsFile" in (directory / "ssh_config").read_text()
    assert ssh(directory, "true").returncode == 0
    assert of_the_system() == before


def of_the_system():
    """Return the size and hash of every file that an ssh set-up could be tempted to change."""
    # OpenSSH asks the password database for the home directory, not $HOME.
    homes = {Path.home(), Path(pwd.getpwuid(os.geteuid()).pw_dir)}
    directories = [Path("/etc/ssh"), Path("/etc/sudoers"), Path("/etc/sudoers.d")]
    directories += [home / ".ssh" for home in homes]
    found = [path for directory in directories for path in (directory, *directory.rglob("*"))]
    return {path: looks(path) for path in found if path.exists()}


def looks(path):
    try:
        content = path.read_bytes()
    except (IsADirectoryError, PermissionError):
        return None
    return len(content), hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("content", [None, "", "no key\n"])
def test_no_key_in_the_archive(tmp_path, content):
    key = tmp_path / "ssh_host_rsa_key"
    if content is not None:
        key.write_text(content)
    with pytest.raises(AgentError) as caught:
        prepare(tmp_path / "x", key, 2222)
    assert caught.value.code == 65 and "ssh_host_rsa_key" in str(caught.value)
    assert until(lambda: caught.value.hint)
