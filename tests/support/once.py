"""What a run of tests makes once, whichever of its workers needs it first; it goes with the run."""

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.containers import docker

# The controller's, which the workers inherit.
_DIRECTORY = "TESTS_OF_A_RUN"
_IMAGES = "images"


def begin():
    """Make the run's directory."""
    os.environ[_DIRECTORY] = tempfile.mkdtemp(prefix="tests-of-a-run-")


def end():
    """Remove the run's images and directory."""
    directory = Path(os.environ.pop(_DIRECTORY))
    images = directory / _IMAGES
    if images.exists():
        tags = images.read_text().split()
        subprocess.run(["docker", "rmi", "-f", *tags], capture_output=True, timeout=120)
    shutil.rmtree(directory, ignore_errors=True)


def once(name, make):
    """Return what `make(directory)` returned to the first caller; the others wait for it.

    It is kept as JSON, and what is made in the directory lives as long as the run.
    """
    directory = Path(os.environ[_DIRECTORY]) / name
    directory.mkdir(exist_ok=True)
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = directory.with_suffix(".json")
        if not made.exists():
            shutil.rmtree(directory)  # of a first try that failed
            directory.mkdir()
            made.write_text(json.dumps(make(directory)))
        return json.loads(made.read_text())


def saved(tag):
    """Return the path of the file that `docker save` makes of an image."""

    def save(directory):
        path = directory / "image.tar"
        docker("save", "-o", str(path), tag, timeout=120)
        path.chmod(0o644)
        return str(path)

    return Path(once(f"saved-{tag.replace(':', '-').replace('/', '-')}", save))


def image(name, *arguments, context="-", text=None, timeout=600):
    """Return the tag of an image that is built once; `text` is its Dockerfile, if not a context's.

    Those whose names have the first word in common are built one after the other: the second one
    finds what they share in the engine's cache.
    """
    run = Path(os.environ[_DIRECTORY])

    def build(_):
        tag = f"architrave-tests:{run.name.rpartition('-')[2]}-{name}"
        with (run / f"build-{name.partition('-')[0]}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with (run / _IMAGES).open("a") as images:
                images.write(f"{tag}\n")
            options = ("-q", "--label", "architrave", "-t", tag)
            docker("build", *options, *arguments, str(context), input=text, timeout=timeout)
        return tag

    return once(name, build)
