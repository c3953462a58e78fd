"""Containers for tests: named, bounded, and gone after the test."""

import subprocess
import time
import uuid
from pathlib import Path

from tests.support.basics import until

LAMBDA = {"EXEC_TYPE": "lambda", "ARCHITRAVE_LAUNCHER": "direct"}


def docker(*argv, timeout=60, input=None):
    """Run docker and return its output; fail the test if it fails."""
    command = ["docker", *argv]
    done = subprocess.run(command, input=input, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _minds_signals(process):
    """Return whether a process is the container's own, and blocks signals or has handlers."""
    try:
        if (process / "cmdline").read_bytes().startswith(b"runc\0init"):
            return False
        status = dict(line.split(":\t") for line in (process / "status").read_text().splitlines())
    except OSError:
        return True  # it has ended meanwhile
    return any(int(status[name], 16) for name in ("SigBlk", "SigCgt"))


class Docker:
    """What starts containers, and removes those that a test leaves."""

    def __init__(self):
        self.names = []

    def arguments(self, image, argv, env=None, options=()):
        """Return the name of a new container, and the arguments that follow `docker run`."""
        name = f"architrave-image-{uuid.uuid4().hex[:12]}"
        self.names.append(name)
        passed = [word for key, value in (env or {}).items() for word in ("-e", f"{key}={value}")]
        return name, ["--name", name, *passed, *options, image, *argv]

    def run(self, image, *argv, env=None, options=(), text=None, timeout=60):
        """Run a container to its end, `text` on its standard input; return the process."""
        if text is not None:
            options = ("-i", *options)
        rest = self.arguments(image, argv, env, options)[1]
        return subprocess.run(
            ["docker", "run", "--rm", *rest],
            input=text or "",
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def start(self, image, *argv, env=None, options=()):
        """Start a container in the background and return it."""
        name, rest = self.arguments(image, argv, env, options)
        docker("run", "-d", *rest)
        return Container(name)

    def remove(self):
        if self.names:
            subprocess.run(["docker", "rm", "-fv", *self.names], capture_output=True, timeout=120)


class Container:
    def __init__(self, name):
        self.name = name

    def execute(self, *argv):
        """Run a command in the container and return its output."""
        return docker("exec", self.name, *argv)

    @property
    def log(self):
        """What the container wrote to stdout."""
        return docker("logs", self.name)

    @property
    def errors(self):
        """What the container wrote to stderr."""
        command = ["docker", "logs", self.name]
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stderr

    def wait_for(self, text, seconds=30):
        """Wait until the container has written a text."""
        until(lambda: text in self.log, seconds)

    def wait_exec(self):
        """Wait until the image's entry point has replaced runc and blocks or takes signals.

        The engine says that a container runs a little before. What PID 1 has no handler for is
        lost, and a process that has not had its first turn has none.
        """
        pid = docker("inspect", "--format", "{{.State.Pid}}", self.name).strip()
        process = Path(f"/proc/{pid}")
        until(lambda: not process.exists() or _minds_signals(process))

    def stop(self):
        """Stop it as Batch does; return its exit code and the seconds that it took."""
        start = time.monotonic()
        docker("stop", "-t", "30", self.name)
        return self.code(), time.monotonic() - start

    def code(self):
        """Return its exit code when it has ended."""
        return int(docker("wait", self.name))
