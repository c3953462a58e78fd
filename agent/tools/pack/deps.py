"""Pack deps.tar.gz: the packages that a program needs and the image lacks."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.core.errors import BAD_ARCHIVE, BAD_SETTINGS, NO_OBJECT, OS_ERROR, AgentError
from agent.staging.packages import LISTING
from agent.tools.cluster.containers import UNAVAILABLE

# docker-run(1): Docker itself failed, and the container did not start.
_OF_DOCKER = 125
_NO_SUCH_PROGRAM = 127
_SCRIPT, _TRIAL = (Path(__file__).parent / name for name in ("fetch-debs", "try-debs"))
# The image's own, which has the image's own agent.
_PYTHON = "/opt/architrave/bin/python3"


def fetch(
    packages: Sequence[str],
    binaries: Sequence[Path],
    image: str | None,
    directory: Path,
    report: Callable[[str], None],
) -> list[Path]:
    """Download the packages that `image` (None: this system) lacks into a directory.

    They are those named, what they depend on, and those with the libraries that the binaries miss.
    `report` gets apt's lines. Raises AgentError 66 for a name that is not found, 69 for
    an image that can't be run, 71, 78.
    """
    argv = ["sh", "-c", _SCRIPT.read_text("utf-8"), "fetch-debs", *packages]
    if image is not None:
        options = ["--rm", "--interactive", "--user", "0", "--entrypoint", argv[0]]
        argv = ["docker", "run", *options, image, *argv[1:]]
    archive = directory / "debs.tar"
    try:
        with archive.open("wb") as out:
            code, complaint = _run(argv, _tar_of(binaries), out, report)
    except OSError as error:
        hint = "install Docker, or resolve on this system with --here"
        raise AgentError(f"start {argv[0]}", str(error), code=OS_ERROR, hint=hint) from error
    if image is not None and code == _OF_DOCKER:
        what = f"start a container of {image}"
        raise AgentError(what, complaint, code=UNAVAILABLE, hint=_image_hint(image))
    if code:
        hint = "check the name with apt-cache search, and that this machine reaches the packages"
        raise AgentError("fetch the packages", complaint, code=NO_OBJECT, hint=hint)
    with tarfile.open(archive) as tar:
        tar.extractall(directory, [one for one in tar if one.isfile() and "/" not in one.name])
    archive.unlink()
    return sorted(directory.glob("*.deb"))


def pack(debs: Sequence[Path], target: Path) -> None:
    """Write deps.tar.gz and, beside it, the list of what is in it."""
    listing = target.with_name(LISTING)
    listing.write_text("".join(f"{deb.name}\n" for deb in debs), "utf-8")
    # Packages are compressed already: a higher level would cost time on both ends.
    with tarfile.open(target, "w:gz", compresslevel=1) as tar:
        for path in (listing, *debs):
            tar.add(path, path.name)


def install(archive: Path, image: str) -> bool:
    """Install a deps.tar.gz in a container of the image, as a job would; False without an agent.

    Raises AgentError with the code and the cause that the job would have, 69 without the image.
    """
    options = ["--rm", "--interactive", "--network", "none", "--user", "0", "--entrypoint", _PYTHON]
    script = ["-I", "-S", "-c", _TRIAL.read_text("utf-8")]
    argv = ["docker", "run", *options, image, *script]
    with archive.open("rb") as given, tempfile.TemporaryFile() as complaint:
        done = subprocess.run(argv, stdin=given, stdout=subprocess.DEVNULL, stderr=complaint)
        complaint.seek(0)
        lines = complaint.read().decode("utf-8", "replace").strip().splitlines()
    if done.returncode == _NO_SUCH_PROGRAM:
        return False
    if done.returncode == _OF_DOCKER:
        cause = lines[0] if lines else "no reason given"
        raise AgentError(
            f"start a container of {image}", cause, code=UNAVAILABLE, hint=_image_hint(image)
        )
    if done.returncode:
        errors = [line for line in lines if line.startswith("cannot ")] or lines[-1:]
        raise AgentError(
            f"install the packages in a container of {image}",
            errors[0].partition(": ")[2] or errors[0] if errors else f"exit code {done.returncode}",
            code=done.returncode if errors else BAD_ARCHIVE,
            hint=f"name what is missing as one more package, or install it in {image}",
        )
    return True


def _image_hint(image: str) -> str:
    return f"check docker info; scripts/build-image -t {image}, docker pull, or use --here"


def _tar_of(binaries: Sequence[Path]) -> bytes:
    """Return a tar of the files; raise AgentError (78) for anything else."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number, path in enumerate(binaries):
            if not path.is_file():
                hint = "name the program itself"
                raise AgentError(f"read {path}", "no such file", code=BAD_SETTINGS, hint=hint)
            tar.add(path.resolve(), f"{number}-{path.name}")
    return out.getvalue()


def _run(
    argv: list[str], given: bytes, out: io.BufferedWriter, report: Callable[[str], None]
) -> tuple[int, str]:
    """Run the script; return its exit code and what went wrong."""
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin and process.stderr
    lines = []
    with process:
        try:
            process.stdin.write(given)
            process.stdin.close()
        except BrokenPipeError:
            pass  # its last output has the cause
        for line in process.stderr:
            lines.append(line.decode("utf-8", "replace").strip())
            report(lines[-1])
    # Lines after this one say how to get help.
    announcing = ("docker:", "cannot ", "E: ")
    wrong = [line for line in lines if line.startswith(announcing)] or lines[-1:]
    return process.returncode, wrong[0] if wrong else f"{argv[0]} exited with {process.returncode}"
