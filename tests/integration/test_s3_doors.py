"""The embedded server's ports besides S3 refuse all clients but the server itself."""

import contextlib
import ipaddress
import json
import os
import shutil
import subprocess
import sys
import uuid

import pytest

from agent.tools.cluster import s3
from agent.tools.cluster.s3 import EmbeddedS3
from tests.support.basics import slow
from tests.support.containers import docker

pytestmark = pytest.mark.timeout(180)

CLIENT_SECONDS = 15
CONTENT = b"SECRET" * 1000
KEY = "batch/private.7z"
# Runs as another user, with what any Linux has; prints the answer to each request.
ASK = """
import json, sys
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

opener = build_opener(ProxyHandler({}))
for method, url in json.loads(sys.argv[1]):
    body = b"replaced" if method in ("PUT", "POST") else None
    kind = {"Content-Type": "application/octet-stream"}
    try:
        answer = opener.open(Request(url, body, kind, method=method), timeout=5)
    except HTTPError as error:
        answer = error
    except OSError as error:
        print(json.dumps([method, url, str(error), "", ""]))
        continue
    token = answer.headers.get("Authorization", "")
    text = answer.read(1 << 20).decode("latin-1")
    print(json.dumps([method, url, answer.status, token, text]))
"""
# execve of a descriptor: the program may be where no other user may look.
AS_NOBODY = """
import json, os, sys
fd, argv = int(sys.argv[1]), json.loads(sys.argv[2])
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
os.chdir("/")
os.execve(fd, argv, {"HOME": "/nonexistent", "PATH": os.defpath})
"""


class Neighbour:
    """Another user of this machine."""

    address = "127.0.0.1"

    def run(self, program, *arguments, text=""):
        """Run a program as the neighbour; return what it says."""
        with open(program, "rb") as file:
            argv = json.dumps([program, *arguments])
            done = subprocess.run(
                [sys.executable, "-c", AS_NOBODY, str(file.fileno()), argv],
                input=text,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                pass_fds=[file.fileno()],
                timeout=CLIENT_SECONDS,
            )
        return done.stdout

    def ask(self, requests):
        return self.run(os.path.realpath("/usr/bin/python3"), "-c", ASK, json.dumps(requests))


class Container(Neighbour):
    """A container on Docker's own network, which the job's nodes are not on."""

    def __init__(self, image):
        self.image = image
        form = "{{(index .IPAM.Config 0).Subnet}}"
        subnet = docker("network", "inspect", "bridge", "--format", form).strip()
        self.address = str(ipaddress.ip_network(subnet)[1])

    def run(self, program, *arguments, text=""):
        name = f"architrave-test-neighbour-{uuid.uuid4().hex}"
        options = ["--rm", "-i", "--volume", f"{program}:/program:ro", "--entrypoint", "/program"]
        try:
            done = subprocess.run(
                ["docker", "run", "--name", name, *options, self.image, *arguments],
                input=text,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=CLIENT_SECONDS,
            )
        finally:  # one that is refused tries again for ever
            subprocess.run(["docker", "rm", "--force", name], capture_output=True)
        return done.stdout

    def ask(self, requests):
        options = ["--rm", "--entrypoint", "/opt/architrave/bin/python3"]
        command = [self.image, "-I", "-c", ASK, json.dumps(requests)]
        return docker("run", *options, *command, timeout=90)


@pytest.fixture(params=["user", slow("container")])
def neighbour(request):
    if request.param == "user":
        return Neighbour()
    return Container(request.getfixturevalue("image"))


@pytest.fixture
def server(neighbour, tmp_path):
    """Return a server that the neighbour reaches, with an archive in it."""
    with EmbeddedS3(tmp_path / "s3", neighbour.address) as running:
        running.create_bucket("bucket")
        (tmp_path / "private.7z").write_bytes(CONTENT)
        running.put_file("bucket", KEY, tmp_path / "private.7z")
        yield running


def shell(server, run, script):
    """Run SeaweedFS's own client, which speaks gRPC to the master, the filer and the volumes."""
    at, ports = server.address, server.ports
    master = f"-master={at}:{ports['master.port']}.{ports['master.port.grpc']}"
    filer = f"-filer={at}:{ports['filer.port']}.{ports['filer.port.grpc']}"
    return run(s3._weed(), "-alsologtostderr=false", "shell", master, filer, text=script)


def as_owner(server, directory):
    """Return what runs a program where the server's own keys are."""

    def run(program, *arguments, text):
        env = {"HOME": str(directory), "PATH": os.defpath}
        command = [program, *arguments]
        options = {"cwd": directory, "env": env, "timeout": CLIENT_SECONDS}
        for _ in range(3):  # one that has lost the master's first answer waits for ever
            with contextlib.suppress(subprocess.TimeoutExpired):
                done = subprocess.run(
                    command, input=text, capture_output=True, text=True, **options
                )
                return done.stdout
        raise AssertionError("SeaweedFS's own client does not answer")

    return run


def names_of_bytes(server, directory):
    """Return the names under which the volumes keep the archive's bytes."""
    listing = shell(server, as_owner(server, directory), f"fs.meta.cat /buckets/bucket/{KEY}\n")
    tokens = listing.replace('"', " ").split()
    found = [after for token, after in zip(tokens, tokens[2:], strict=False) if token == "fileId"]
    return found or [token for token in tokens if token[0].isdigit() and "," in token.strip(",")]


@pytest.mark.cell("security.s3-doors")
def test_http_lets_nobody_in(server, neighbour, tmp_path):
    """Another user, even with the names of the objects, neither reads nor replaces any."""
    found = names_of_bytes(server, tmp_path / "s3")
    assert found
    requests = []
    doors = {name: f"http://{server.address}:{port}" for name, port in server.ports.items()}
    for fid in found:
        requests += [
            (method, f"{doors['volume.port']}/{fid}") for method in ("GET", "PUT", "DELETE")
        ]
        requests += [("GET", f"{doors['master.port']}/dir/lookup?fileId={fid}")]
    path = f"/buckets/bucket/{KEY}"
    for method in ("GET", "PUT", "POST", "DELETE"):
        requests += [(method, f"{doors['filer.port']}{path}"), (method, doors["s3.port"] + path)]
    for path in ("/", "/buckets/bucket/", f"/buckets/bucket/{KEY}?metadata=true", "/metrics"):
        requests += [("GET", doors["filer.port"] + path)]
    for path in ("dir/assign", "submit", "vol/grow?count=1", "col/delete?collection=bucket"):
        requests += [
            ("GET", f"{doors['master.port']}/{path}"),
            ("POST", f"{doors['master.port']}/{path}"),
        ]
    requests += [("GET", f"{url}/") for url in doors.values()]
    lines = [json.loads(line) for line in neighbour.ask(requests).splitlines()]
    assert len(lines) == len(requests)
    for method, url, status, token, text in lines:
        assert "SECRET" not in text, url
        assert not token, f"a token from {url}"
        if method != "GET":
            assert status not in (200, 201, 202, 204), f"{method} {url}"
    still = server.client().get_object(Bucket="bucket", Key=KEY)["Body"].read()
    assert still == CONTENT


@pytest.mark.cell("security.s3-doors")
def test_grpc_lets_nobody_in(server, neighbour, tmp_path):
    """SeaweedFS's client without the server's certificates reads nothing and removes nothing."""
    script = f"fs.cat /buckets/bucket/{KEY}\nlock\nfs.rm -rf /buckets/bucket\n"
    assert "SECRET" not in bounded(server, neighbour, script)
    still = server.client().get_object(Bucket="bucket", Key=KEY)["Body"].read()
    assert still == CONTENT
    # The same client finds the way where it may.
    assert "bucket" in shell(server, as_owner(server, tmp_path / "s3"), "fs.ls /buckets\n")


def bounded(server, neighbour, script):
    """Return what the client says within its time: shut out, it tries for ever."""
    try:
        return shell(server, neighbour.run, script)
    except subprocess.TimeoutExpired as late:
        return (late.stdout or b"").decode("utf-8", "replace")


@pytest.mark.skipif(not shutil.which("ss"), reason="no ss")
def test_it_listens_where_it_was_configured(server):
    """Nothing listens on every address of the machine."""
    listed = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True).stdout
    own = [line.split()[3] for line in listed.splitlines() if f"pid={server._process.pid}," in line]
    assert own
    for address in own:
        assert address.rpartition(":")[0] in (server.address, "127.0.0.1")


def test_what_locks_it_is_for_nobody_else(server, tmp_path):
    assert (tmp_path / "s3").stat().st_mode & 0o77 == 0
    for name in ("security.toml", "key.pem", "s3.json"):
        assert (tmp_path / "s3" / name).stat().st_mode & 0o77 == 0
