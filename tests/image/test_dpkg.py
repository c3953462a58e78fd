"""What dpkg needs and does on the way: order, directories, scripts that leave something behind."""

import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from agent.tools.cluster.cluster import Cluster
from agent.tools.cluster.job import Job
from tests.image.test_packages import build, output, pack_deps
from tests.support.basics import PASSWORD, pack
from tests.support.containers import docker
from tests.support.once import once

pytestmark = [pytest.mark.timeout(600), pytest.mark.cell("archives.any-package")]

# There dpkg works alone.
WITHOUT_APT = ("--volume", "/dev/null:/usr/bin/apt-get:ro")
WAYS = pytest.mark.parametrize("way", [(), WITHOUT_APT], ids=["apt", "dpkg"])
PYTHON = """
import numpy
from mpi4py import MPI
print("sum", MPI.COMM_WORLD.allreduce(int(numpy.ones(3).sum())), flush=True)
"""
REAL = {
    "python": (["python3", "python3-numpy", "python3-mpi4py"], "python3", "/opt/sum.py"),
    "jre": (["openjdk-17-jre-headless"], "java", "-version"),
    "ruby": (["ruby"], "ruby", "-e 'puts 6 * 7'"),
}
PRINTED = {"python": "sum 3", "jre": "OpenJDK Runtime Environment", "ruby": "42"}


@pytest.fixture
def packed(image):
    """Return what packs real packages, once each in a run."""

    def deps(name):
        def pack_deps(directory):
            target = directory / "deps.tar.gz"
            arguments = ["-m", "agent", "pack", "deps", "--image", image, "--to", target]
            subprocess.run([sys.executable, *arguments, *REAL[name][0]], check=True, timeout=400)
            return str(target)

        return Path(once(f"packed-{name}", pack_deps))

    return deps


@pytest.fixture
def run(image, keys, tmp_path):
    """Return what runs a job with a deps.tar.gz: its result."""
    content = tmp_path / "content"
    shutil.copytree(keys, content, dirs_exist_ok=True)
    (content / "sum.py").write_text(PYTHON)
    private = pack(content, tmp_path / "private.7z", PASSWORD)

    def start(deps, program, params, *docker_args, nodes=1, launcher="direct", of=image):
        env = {"APP_BIN": program, "APP_PARAMS": params, "ARCHITRAVE_LAUNCHER": launcher}
        env |= {"ARCHITRAVE_SLOTS": "1"}
        described = Job(
            nodes=nodes,
            image=of,
            deps=deps,
            private=private,
            env=env | {"PRIVATE_PASSWD": PASSWORD, "TMP_OUTPUT_DIR": "/tmp/results"},
            results=tmp_path / f"results-{uuid.uuid4().hex[:8]}",
            timeout=400,
            docker_args=docker_args,
        )
        with Cluster(described) as cluster:
            return cluster.wait()

    return start


@pytest.fixture
def derived(image, tmp_path):
    """Return what makes an image of the one under test; it is gone after the test."""
    made = []

    def make(lines):
        tag = f"architrave-derived-{uuid.uuid4().hex[:12]}"
        (tmp_path / "Dockerfile").write_text(f"FROM {image}\n{lines}\n")
        docker("build", "-q", "-t", tag, str(tmp_path), timeout=120)
        made.append(tag)
        return tag

    yield make
    for tag in made:
        docker("rmi", "-f", tag)


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        pytest.param("python", 3, marks=pytest.mark.slow),
        pytest.param("jre", 1, marks=pytest.mark.slow),
        ("ruby", 1),
    ],
)
def test_what_pack_deps_packs_a_job_installs(packed, run, name, nodes):
    """Real packages with pre-dependencies and links to manual pages, from their names to a job."""
    launcher = "mpirun" if nodes > 1 else "direct"
    result = run(packed(name), *REAL[name][1:], nodes=nodes, launcher=launcher)
    assert [node.code for node in result.nodes] == [0] * nodes, result.nodes[0].errors
    assert (f"sum {3 * nodes}" if name == "python" else PRINTED[name]) in output(result)
    for index in range(nodes):
        assert "Setting up" in (result.results / f"node-{index}/dpkg.log").read_text()


@pytest.mark.parametrize("name", [pytest.param("jre", marks=pytest.mark.slow), "ruby"])
def test_real_packages_without_apt(packed, run, name):
    """An image that has only dpkg installs the same."""
    result = run(packed(name), *REAL[name][1:], *WITHOUT_APT)
    assert result.code == 0, result.nodes[0].errors
    assert PRINTED[name] in output(result)
    assert "apt-get" not in (result.results / "node-0/dpkg.log").read_text()


@WAYS
def test_pre_dependencies(run, tmp_path, way):
    """In alphabetical order each of these packages comes before what it must find configured."""
    files = [build(tmp_path, "c-test", scripts={"postinst": "#!/bin/sh\n: >/etc/c-configured\n"})]
    for name, needed in (("b-test", "c-test"), ("a-test", "b-test")):
        script = "#!/bin/sh\ntest -e /etc/c-configured\n"
        more = f"Pre-Depends: {needed}\n"
        files.append(build(tmp_path, name, control=more, scripts={"preinst": script}))
    result = run(pack_deps(tmp_path / "deps.tar.gz", files), "a-test", "", *way)
    assert result.code == 0, result.nodes[0].errors
    assert output(result).startswith("from a package")


@WAYS
def test_directories_that_a_slim_image_lacks(run, tmp_path, way):
    """A script finds the directories of its own package, and those of the manual's sections."""
    script = (
        "#!/bin/sh\nset -e\n"
        "update-alternatives --install /usr/bin/alt-test alt-test /usr/bin/dirs-test 1"
        " --slave /usr/share/man/man1/alt-test.1.gz alt-test.1.gz /opt/alt-test.1.gz\n"
        "echo made >/usr/share/doc/dirs-test/examples/made\n"
        "echo made >/usr/share/info/dirs-test/made\n"
    )
    files = {"opt/alt-test.1.gz": "", "usr/share/doc/dirs-test/examples/one": ""}
    files |= {"usr/share/info/dirs-test/one": ""}
    package = build(tmp_path, "dirs-test", files=files, scripts={"postinst": script})
    result = run(pack_deps(tmp_path / "deps.tar.gz", [package]), "alt-test", "", *way)
    assert result.code == 0, result.nodes[0].errors


@WAYS
def test_a_script_that_leaves_a_process_behind(run, tmp_path, way):
    """The end of dpkg counts: what holds its output goes on, and the job begins."""
    script = "#!/bin/sh\nsetsid sleep 3600 &\n"
    package = build(tmp_path, "daemon-test", scripts={"postinst": script})
    start = time.monotonic()
    result = run(pack_deps(tmp_path / "deps.tar.gz", [package]), "daemon-test", "", *way)
    assert result.code == 0, result.nodes[0].errors
    assert time.monotonic() - start < 60


@WAYS
def test_the_whole_cause(run, tmp_path, way):
    """The error has the messages of the script and of dpkg, and dpkg's output is always kept."""
    script = "#!/bin/sh\necho first word >&2\necho last word >&2\nexit 9\n"
    package = build(tmp_path, "breaks-test", scripts={"postinst": script})
    other = build(tmp_path, "a-test", control="Depends: breaks-test\n")
    deps = pack_deps(tmp_path / "deps.tar.gz", [package, other])
    result = run(deps, "breaks-test", "", *way)
    assert result.code == 65
    text = result.nodes[0].errors[0]["message"]
    for part in ("first word", "last word", "breaks-test", "post-installation", "exit status 9"):
        assert part in text
    assert "last word" in (result.results / "node-0/dpkg.log").read_text()


@WAYS
def test_what_is_missing_is_named(run, tmp_path, way):
    """A package that lacks another one: the error names both."""
    package = build(tmp_path, "lacks-test", control="Depends: nowhere-test (>= 3)\n")
    result = run(pack_deps(tmp_path / "deps.tar.gz", [package]), "lacks-test", "", *way)
    assert result.code == 65
    text = result.nodes[0].errors[0]["message"]
    assert "lacks-test" in text and "nowhere-test" in text


def test_an_image_whose_packages_do_not_agree(run, derived, tmp_path):
    """Where apt-get refuses to do anything at all, dpkg installs as ever."""
    build(tmp_path, "torn-test", control="Depends: nowhere-test\n")
    image = derived("COPY torn-test_1.0_all.deb /x.deb\nRUN dpkg --force-depends -i /x.deb")
    deps = pack_deps(tmp_path / "deps.tar.gz", [build(tmp_path, "hello-test")])
    result = run(deps, "hello-test", "", of=image)
    assert result.code == 0, result.nodes[0].errors


def test_foreign_architecture_that_the_image_enables(run, derived, tmp_path):
    image = derived("RUN dpkg --add-architecture s390x")
    package = build(tmp_path, "other-test", architecture="s390x")
    result = run(pack_deps(tmp_path / "deps.tar.gz", [package]), "other-test", "", of=image)
    assert result.code == 0, result.nodes[0].errors


def test_what_a_mac_leaves_beside_a_package(run, tmp_path):
    package = build(tmp_path, "hello-test")
    beside = tmp_path / f"._{package.name}"
    beside.write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    deps = pack_deps(tmp_path / "deps.tar.gz", [package, beside], [package.name, beside.name])
    result = run(deps, "hello-test", "")
    assert result.code == 0, result.nodes[0].errors
    result = run(pack_deps(tmp_path / "deps.tar.gz", [package, beside]), "hello-test", "")
    assert result.code == 0, result.nodes[0].errors


def test_an_application_s_own_dpkg_log(run, tmp_path):
    """The application's file keeps its name and bytes; the agent's goes up beside it."""
    deps = pack_deps(tmp_path / "deps.tar.gz", [build(tmp_path, "hello-test")])
    result = run(deps, "/bin/sh", "-c 'echo mine >$TMP_OUTPUT_DIR/dpkg.log'")
    assert result.code == 0
    assert (result.results / "node-0/dpkg.log").read_text() == "mine\n"
    assert "Setting up" in (result.results / "node-0/architrave.dpkg.log").read_text()


def test_pack_deps_says_what_no_job_could_install(derived, tmp_path):
    """What fails in a container of the image is reported before the archive is there."""
    fails = "'pre-invoke=echo no room >&2; exit 9'"
    image = derived(f"RUN echo {fails} >/etc/dpkg/dpkg.cfg.d/fails")
    target = tmp_path / "packed.tar.gz"
    arguments = ["-m", "agent", "pack", "deps", "--image", image, "--to", target, "hello"]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 65, done.stderr
    assert "no room" in done.stderr and "hint:" in done.stderr
    assert not target.exists()
