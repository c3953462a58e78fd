"""The agent's directory, copied from the image, on images that have nothing of what it needs."""

import subprocess
from dataclasses import dataclass

import pytest

from agent.tools.cluster.cluster import Cluster
from agent.tools.cluster.job import Job
from tests.image.test_start import time_log
from tests.support import once
from tests.support.basics import PASSWORD, REPOSITORY, pack, slow
from tests.support.clusters import codes, errors
from tests.support.containers import LAMBDA

# The first test makes the bases and the image on them.
pytestmark = pytest.mark.timeout(600)

EXAMPLE = REPOSITORY / "examples/other-base/Dockerfile"
# A libc of its own, and a locale whose character set only a module of that libc knows.
OLD = """
FROM debian:bullseye-slim
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends locales \\
    && localedef -i ja_JP -f EUC-JP ja_JP.EUC-JP
"""
NO_PYTHON = "FROM debian:bookworm-slim\n"
# One program in one file, and a directory that an empty image lacks.
EMPTY = """
FROM debian:bookworm-slim AS programs
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends busybox-static
FROM scratch
COPY --from=programs /bin/busybox /bin/busybox
WORKDIR /tmp
WORKDIR /
"""
# Of the libraries in this directory, those that a program may well bring along too.
LIBRARIES = ("libz.so.1", "libexpat.so.1", "libstdc++.so.6", "libgcc_s.so.1", "libcrypto.so.3")


@dataclass(frozen=True)
class Base:
    """An image with the agent on it, and what its shell is started by."""

    image: str
    shell: tuple[str, ...]
    libc: str

    def job(self, script):
        """Return the variables that make a script the application."""
        program, *first = self.shell
        return {"APP_BIN": program, "APP_PARAMS": " ".join([*first, "-c", f"'{script}'"])}


def distribution(name):
    """See that the engine has a distribution's image."""
    command = [REPOSITORY / "scripts/base-image", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module", params=[slow("old"), slow("no-python"), "empty"])
def base(request, image):
    """Return each base with the agent's directory on it, built once in a run."""
    dockerfile, shell, libc = {
        "old": (OLD, ("/bin/sh",), "2.31"),
        "no-python": (NO_PYTHON, ("/bin/sh",), "2.36"),
        "empty": (EMPTY, ("/bin/busybox", "sh"), ""),
    }[request.param]
    for line in dockerfile.splitlines():
        if line.startswith("FROM debian:"):
            name = line.split()[1]
            once.once(name.replace(":", "-"), lambda _, name=name: distribution(name))
    ours = EXAMPLE.read_text().partition("FROM ${BASE_IMAGE}\n")[2]
    assert "architrave:latest" in ours
    dockerfile += ours.replace("architrave:latest", image)
    tag = once.image(f"base-{request.param}", text=dockerfile, timeout=300)
    return Base(tag, shell, libc)


@pytest.fixture
def foreign(tmp_path):
    """Return docker's options for an application whose libraries are none for this machine."""
    directory = tmp_path / "foreign"
    directory.mkdir()
    for name in LIBRARIES:
        (directory / name).write_text("not for this machine\n")
    return ("-v", f"{directory}:/foreign:ro", "-e", "LD_LIBRARY_PATH=/foreign")


def test_what_the_base_lacks(containers, base):
    """The bases are what these tests are about: an older libc, no Python, nothing at all."""
    script = "for name in python3 7zz env; do command -v $name; done; ls /lib/*/libc-*.so"
    done = containers.run(base.image, *base.shell, "-c", script)
    assert "python3" not in done.stdout and "7zz" not in done.stdout
    version = containers.run(base.image, "ldd", "--version")
    assert base.libc in version.stdout and (base.libc or version.returncode == 127)


def test_version(containers, base):
    done = containers.run(base.image, "--version")
    assert (done.returncode, done.stdout[:11]) == (0, "architrave ")


def test_job(containers, base, tmp_path, foreign):
    """A job in lambda mode: the application's code, its output in time.log, nothing missing."""
    env = LAMBDA | base.job("echo ran; exit 3")
    done = containers.run(base.image, env=env, options=("-v", f"{tmp_path}:/tmp", *foreign))
    assert done.returncode == 3, done.stderr
    assert time_log(tmp_path) == (["ran"], ["real", "user", "sys"])


@pytest.mark.parametrize(("script", "code"), [("exit 5", 5), ("kill -9 $$", 137)])
def test_command(containers, base, script, code):
    done = containers.run(base.image, "exec", "--", *base.shell, "-c", script)
    assert done.returncode == code


def test_helpers(containers, base):
    """What needs a process of its own says in one line what is wrong: no S3 answers here."""
    env = base.job("exit 0") | {"EXEC_TYPE": "batch", "S3_BUCKET": "s3://bucket"}
    env |= {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_REGION": "us-east-1"}
    env |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_MAX_ATTEMPTS": "1"}
    done = containers.run(base.image, env=env)
    assert done.returncode == 69, done.stderr


@pytest.mark.cell("signals.at-once")
def test_stop_in_the_first_moment(containers, base):
    """A SIGTERM that comes while Python starts isn't lost."""
    env = LAMBDA | base.job("sleep 100")
    for arguments in ((), (*base.shell, "-c", "sleep 100")):
        container = containers.start(base.image, *arguments, env=env)
        container.wait_exec()
        code, seconds = container.stop()
        assert code == 143 and seconds < 20


def environment(text):
    """Return the variables that `env -0` or /proc/self/environ shows."""
    return {entry for entry in text.split("\0") if entry}


# The one base with locales of its own sees them all.
@pytest.mark.parametrize(
    ("base", "locale"),
    [("old", one) for one in ("", "C", "C.UTF-8", "ja_JP.EUC-JP", "no_NO.where")]
    + [("no-python", ""), ("no-python", "C.UTF-8"), ("empty", ""), ("empty", "no_NO.where")],
    indirect=["base"],
)
def test_environment(containers, base, foreign, locale):
    """A command sees the environment that the container was given, and nothing of the agent's."""
    program = (
        "exec cat /proc/self/environ" if base.libc else "exec /bin/busybox cat /proc/self/environ"
    )
    options = ("--hostname", "here", *foreign)
    env = {"LC_ALL": locale, "PYTHONHOME": "/nowhere"} if locale else {"PYTHONPATH": "/nowhere"}
    ours = containers.run(base.image, *base.shell, "-c", program, env=env, options=options)
    entrypoint = ("--entrypoint", base.shell[0])
    arguments = (*base.shell[1:], "-c", program)
    theirs = containers.run(base.image, *arguments, env=env, options=(*options, *entrypoint))
    assert environment(ours.stdout) == environment(theirs.stdout) != set()
    assert "architrave" not in ours.stdout


def test_environment_of_a_job(containers, base):
    """The application's has what the contract adds, and nothing else."""
    program = "cat" if base.libc else "busybox cat"
    env = LAMBDA | base.job(f"exec {program} /proc/self/environ")
    done = containers.run(base.image, env=env, options=("--hostname", "here"))
    names = {entry.partition("=")[0] for entry in environment(done.stdout.partition("\n")[0])}
    added = {"TMP_OUTPUT_DIR", "USER", "HOME", "LANG", "OMPI_MCA_plm_rsh_agent"}
    # The shell's own.
    names -= {"PWD", "SHLVL", "OLDPWD", "_"}
    assert names == {*env, "PATH", "HOSTNAME"} | added


def test_archive_from_s3(base, tmp_path, foreign):
    """An encrypted private.7z comes from S3 and is unpacked, and the results go there."""
    content = tmp_path / "content"
    content.mkdir()
    (content / "Größe").write_text("from the archive\n")
    script = 'read line < "/opt/Größe"; echo $line > $TMP_OUTPUT_DIR/result; exit 7'
    described = Job(
        image=base.image,
        private=pack(content, tmp_path / "private.7z", PASSWORD),
        env={"PRIVATE_PASSWD": PASSWORD, "ARCHITRAVE_LAUNCHER": "direct", **base.job(script)},
        results=tmp_path / "results",
        docker_args=foreign,
    )
    with Cluster(described) as running:
        result = running.wait()
    assert codes(result) == [7], errors(result.nodes[0])
    (found,) = [path for path in result.files if path.name == "result"]
    assert found.read_text() == "from the archive\n"


def test_names_and_certificates(containers, base, foreign):
    """A host's name is found, and a server with a private certificate is accepted."""
    script = (REPOSITORY / "tests/image/tls.py").read_text()
    options = ("-i", "--entrypoint", "/opt/architrave/bin/python3", *foreign)
    options += ("--add-host", "storage.example:127.0.0.1")
    done = containers.run(base.image, "-I", "-", text=script, options=options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["SSLError", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"]
