"""The command that opens a shell in a container, on each platform."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agent.job import attach
from agent.job.attach import attach_command

IDENTITY = "0123456789abcdef" * 4
TASK = {"Cluster": "arn:c", "TaskARN": "arn:t", "Containers": []}


@pytest.fixture(autouse=True)
def program(tmp_path, monkeypatch):
    """Put the program where an image has it."""
    (tmp_path / "architrave").touch()
    monkeypatch.setattr(attach, "_PROGRAM", str(tmp_path / "architrave"))
    return tmp_path / "architrave"


@pytest.fixture
def metadata():
    """Start what Amazon ECS answers a container with; return its address and the answers."""
    answers = {"/v4/x": {"Name": "default"}, "/v4/x/task": TASK}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answers[self.path]).encode())

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v4/x", answers
        server.shutdown()


def test_ecs(metadata, program):
    command = attach_command({"ECS_CONTAINER_METADATA_URI_V4": metadata[0]})
    assert command.startswith("aws ecs execute-command --cluster arn:c --task arn:t ")
    assert command.endswith(f"--container default --interactive --command '{program} shell'")


def test_ecs_that_says_something_else(metadata, tmp_path):
    del metadata[1]["/v4/x/task"]["TaskARN"]
    command = attach_command({"ECS_CONTAINER_METADATA_URI_V4": metadata[0]}, str(tmp_path / "none"))
    assert command.startswith("docker exec -it CONTAINER ")


def test_docker(tmp_path, program):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 2 0:3 /var/lib/docker/containers/{IDENTITY}/hostname /etc/hostname rw\n")
    assert attach_command({}, str(mounts)) == f"docker exec -it 0123456789ab {program} shell"


def test_a_process(program):
    program.unlink()
    assert attach_command({}) == "architrave local shell"
