"""What must stay inside: keys, passwords, decrypted files; and which nodes must stay outside."""

import json
import os
import shutil
import stat
import subprocess

import pytest

from agent.core.errors import AgentError
from agent.multinode.sftp import Sftp
from tests.support.basics import pack, slow, until
from tests.support.clusters import codes, errors, wait_ready


@pytest.mark.cell("security.other-job", "nodes.stranger")
@pytest.mark.parametrize(
    ("backend", "other"),
    [
        slow("containers", {"AWS_BATCH_JOB_ID": "another-job#1"}),
        ("processes", {"AWS_BATCH_JOB_ATTEMPT": "7"}),
    ],
    indirect=["backend"],
    ids=str,
)
def test_a_node_of_another_job(cluster, backend, other):
    """It has the same archive and password, and is not let in: 77, and the job misses it."""
    env = {"ARCHITRAVE_JOIN_TIMEOUT_SECONDS": "15", "ARCHITRAVE_HEARTBEAT_SECONDS": "0.5"}
    with cluster(backend, "hold", nodes=2, env=env, node_env={1: other}) as running:
        result = running.wait()
    assert codes(result) == [75, 77]
    assert "worker 1" in errors(result.nodes[0])


@pytest.mark.cell("security.key-modes", "security.removed")
def test_modes_and_the_end_of_decrypted_files(cluster):
    """While the job runs only its user can read the keys; afterwards there are none."""
    env = {"ARCHITRAVE_HEARTBEAT_SECONDS": "0.5"}
    with cluster(None, "hold", nodes=2, env=env) as running:
        wait_ready(running, 2)
        for node in running.nodes.values():
            runtime = node.root / f"var/tmp/.architrave-{os.geteuid()}"
            assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
            found = [path for path in runtime.rglob("*") if "key" in path.name]
            assert {path.name for path in found} >= {"host_key", "user_key", "authorized_keys"}
            assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o600}
            assert stat.S_IMODE((node.root / "tmp/batch").stat().st_mode) == 0o700
            assert (node.root / "opt/ssh_host_rsa_key").exists()
            node.signal(15)
        result = running.wait()
        assert codes(result) == [143, 143]
        for node in running.nodes.values():
            assert not list((node.root / "opt").iterdir())
            assert not [p for p in (node.root / "tmp").rglob("*") if "key" in p.name]


@pytest.mark.cell("security.removed")
def test_held_for_a_debugger_and_then_removed(cluster):
    """On request a failed node keeps its files for so long, and says how to get in."""
    env = {"ARCHITRAVE_HOLD_ON_FAILURE_SECONDS": "60"}
    with cluster(None, "exit 3", nodes=1, env=env) as running:
        node = running.nodes[0]
        until(lambda: b'"container_held"' in running.states[0].stderr, 60)
        assert (node.root / "opt/program").exists()
        node.signal(15)
        assert running.wait_end(0, 20) == 3
        assert not list((node.root / "opt").iterdir())


@pytest.mark.cell("security.removed")
def test_removed_after_a_failure(cluster, keys, tmp_path):
    """An archive whose program is not there leaves nothing decrypted behind."""
    private = pack(keys, tmp_path / "private.7z")
    with cluster(None, "", nodes=1, private=private) as running:
        node = running.nodes[0]
        assert running.wait_end(0, 60) == 127
        assert not list((node.root / "opt").iterdir())


@pytest.mark.cell("security.readiness", "nodes.stranger")
def test_hostile_readiness_files(cluster):
    """A stranger's readiness files change nothing: each is refused by name."""
    late = {"ARCHITRAVE_JOIN_TIMEOUT_SECONDS": "30", "ARCHITRAVE_HEARTBEAT_SECONDS": "0.5"}
    with cluster(None, "exit 4", nodes=3, env=late) as running:
        running.nodes[2].freeze()  # holds the meeting open
        running.wait_phase(0, "join")
        ready = running.nodes[0].root / "tmp/batch/workers_ready"
        until(ready.exists)
        good = {"index": 2, "address": "127.0.0.9", "slots": 1, "version": "1"}
        good |= {"job": running.job.job_id, "attempt": 1}
        hostile = {
            "2.json": json.dumps(good | {"attempt": 2}),
            "0.json": json.dumps(good | {"index": 0}),
            "3.json": json.dumps(good | {"index": 3}),
            "02.json": json.dumps(good),
            "1e0.json": "{",
            "-1.json": "[" * 60000,
            "x.json": json.dumps(good | {"address": "$(reboot)"}),
        }
        for name, text in hostile.items():
            (ready / ".new").write_text(text)
            (ready / ".new").rename(ready / name)
        (ready / "huge.json").write_bytes(bytes(1 << 20))
        (ready / "4.json").symlink_to("/etc/passwd")
        os.mkfifo(ready / "5.json")

        def refused():
            log = running.states[0].stderr.decode()
            names = [*hostile, "huge.json", "4.json", "5.json"]
            return all(f'"workers_ready/{name}"' in log for name in names)

        until(refused, 20)
        (ready / "2.json").unlink()
        running.nodes[2].thaw()
        result = running.wait()
    assert codes(result) == [4, 4, 4], errors(result.nodes[0])


@pytest.mark.cell("security.sshd")
def test_sshd_of_a_running_job_lets_nobody_else_in(cluster, tmp_path):
    """Any other key is refused, and what a key may do is an SFTP session and a command."""
    with cluster(None, "hold", nodes=2, env={"ARCHITRAVE_HEARTBEAT_SECONDS": "0.5"}) as running:
        wait_ready(running, 2)
        node = running.nodes[0]
        ours = node.root / f"var/tmp/.architrave-{os.geteuid()}/ssh"
        theirs = tmp_path / "theirs"
        shutil.copytree(ours, theirs)
        for name in ("user_key", "files_key"):
            (theirs / name).unlink()
            key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", theirs / name]
            subprocess.run(key, check=True)
        port = next(
            int(line.split()[1])
            for line in (ours / "sshd_config").read_text().splitlines()
            if line.startswith("Port ")
        )
        user = os.environ.get("USER") or "root"
        with pytest.raises(AgentError) as caught:
            Sftp(node.address, port, user, str(theirs), 10)
        assert caught.value.code == 77
        with Sftp(node.address, port, user, str(ours), 10) as remote:
            assert json.loads(remote.read("main.json"))["job"] == running.job.job_id
        command = ["ssh", "-F", ours / "ssh_config", "-N", "-o", "ExitOnForwardFailure=yes"]
        forward = ["-R", "127.0.0.1:0:127.0.0.1:1", node.address]
        done = subprocess.run([*command, *forward], capture_output=True, text=True, timeout=20)
        assert done.returncode == 255 and "forwarding failed" in done.stderr
