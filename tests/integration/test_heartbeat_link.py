"""A worker's link to the main node, with the real ssh and sshd."""

import json
import os
import re
import shutil
import subprocess
import sys

from tests.integration.test_ssh import prepare, server  # noqa: F401

# A loop takes the signals of the process that it is in, so it has one of its own.
ASK = """
import json, os, sys
from agent.multinode.heartbeat_link import HeartbeatLink
from agent.engine.loop import Loop
from agent.engine.process import Children

loop, messages = Loop(Children()), []
line = HeartbeatLink(loop, sys.argv[1:], os.environ, messages.append)
for order in json.load(sys.stdin):
    line.ask(order)
    assert not line.ask(order), "one at a time"
    loop.wait(lambda: not line.busy, loop.clock() + 30)
print(json.dumps({"messages": messages, "over": line.done, "cause": line.cause}))
line.close()
"""


def ask(directory, *orders):
    """Return what a line answers to orders, and why it is over if it is."""
    key = ["-i", str(directory / "files_key")]
    command = ["ssh", "-F", str(directory / "ssh_config"), *key, "-s", "127.0.0.1", "sftp"]
    done = subprocess.run(
        [sys.executable, "-c", ASK, *command],
        input=json.dumps(orders),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def put(path, data):
    return {"do": "put", "path": path, "data": data}


BEAT = {"do": "beat", "path": "2.json"}


def test_beats_and_messages(server):  # noqa: F811
    """The own file is touched, main's count read; a message of any length appears whole."""
    batch = server[0] / "batch"
    (batch / "main.json").write_text("{}")
    os.utime(batch / "main.json", (7, 7))
    (batch / "2.json").write_text("{}")
    os.utime(batch / "2.json", (1, 1))
    long = "ä" * 1_000_000
    answer = ask(server[0], BEAT, put("empty", ""), put("long", long), put("long", "x"), BEAT)
    beats = [{"beat": 7}, {"put": "empty"}, {"put": "long"}, {"put": "long"}, {"beat": 7}]
    assert answer == {"messages": beats, "over": False, "cause": ""}
    assert (batch / "2.json").stat().st_mtime > 1e9
    assert ((batch / "empty").read_text(), (batch / "long").read_text()) == ("", "x")
    assert ask(server[0], put("long", long))["over"] is False
    assert (batch / "long").read_text() == long
    assert sorted(os.listdir(batch)) == ["2.json", "empty", "long", "main.json"]


def test_what_fails_ends_the_line_with_its_cause(server, tmp_path):  # noqa: F811
    directory = server[0]
    gone = ask(directory, BEAT, put("x", "y"))
    assert gone["over"] and re.search(r"\b2\b", gone["cause"])
    assert ask(directory, put("nowhere/x", "y"))["cause"].endswith("status 2")
    shutil.rmtree(directory / "batch")
    assert ask(directory, BEAT)["over"]


def test_ssh_says_why_it_fails(server, tmp_path, keys):  # noqa: F811
    _, port = server
    stranger = prepare(tmp_path / "stranger", keys / "ssh_host_rsa_key", port, job="another")
    answer = ask(stranger, BEAT)
    assert (answer["messages"], answer["over"]) == ([], True)
    assert "Host key verification failed" in answer["cause"]
    nobody = prepare(tmp_path / "nobody", keys / "ssh_host_rsa_key", 1)
    assert "Connection refused" in ask(nobody, BEAT)["cause"]
