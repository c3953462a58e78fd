"""Debian packages from deps.tar.gz, with the image's own dpkg."""

import subprocess
import tarfile

import pytest

from agent.tools.cluster.cluster import Cluster
from agent.tools.cluster.job import Job

pytestmark = pytest.mark.timeout(120)


def build(directory, name, version="1.0", architecture="all", control="", scripts=None, files=None):
    """Build a package with one program, named as the package.

    `control` is more lines for its control file, `scripts` its maintainer scripts, `files` more
    files: {path: text}.
    """
    tree = directory / f"{name}-tree"
    more = {f"DEBIAN/{script}": text for script, text in (scripts or {}).items()}
    more["DEBIAN/control"] = (
        f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n"
        f"Maintainer: Nobody <nobody@example.org>\nDescription: test\n{control}"
    )
    for path, text in (more | (files or {})).items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
        (tree / path).chmod(0o755 if path.removeprefix("DEBIAN/") in (scripts or {}) else 0o644)
    program = tree / "usr/bin" / name
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho from a package\n")
    program.chmod(0o755)
    path = directory / f"{name}_{version}_{architecture}.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", tree, path], check=True, capture_output=True
    )
    return path


def pack_deps(path, files, listed=()):
    """Make a deps.tar.gz; with names in `listed` it has a deps_batch.lst."""
    lists = []
    if listed:
        lists = [path.parent / "deps_batch.lst"]
        lists[0].write_text("".join(f"{name}\n" for name in listed))
    with tarfile.open(path, "w:gz") as tar:
        for file in [*files, *lists]:
            tar.add(file, f"deps/{file.name}")
    return path


@pytest.fixture
def job(image, tmp_path):
    """Return what runs a script on one node with a deps.tar.gz: (the main node, S3's files)."""

    def run(deps, script, *docker_args):
        env = {
            "APP_BIN": "/bin/sh",
            "APP_PARAMS": f"-c '{script}'",
            "ARCHITRAVE_LAUNCHER": "direct",
            "TMP_OUTPUT_DIR": "/tmp/results",
        }
        described = Job(
            image=image,
            deps=deps,
            env=env,
            results=tmp_path / "job",
            timeout=90,
            docker_args=docker_args,
        )
        with Cluster(described) as cluster:
            return cluster.wait()

    return run


def output(result):
    return result.nodes[0].stdout.decode()


@pytest.mark.cell("archives.packages")
def test_installed_by_dpkg(job, tmp_path):
    """As root a package is installed by dpkg, and one that the image has newer is left alone."""
    deps = pack_deps(
        tmp_path / "deps.tar.gz",
        [build(tmp_path, "hello-test"), build(tmp_path, "hostname", "0.1")],
    )
    script = (
        'dpkg-query -W -f "\\${db:Status-Status} \\${Version}\\n" hello-test;'
        'dpkg-query -W -f "\\${Version}\\n" hostname; hello-test; command -v hello-test'
    )
    result = job(deps, script)
    assert result.code == 0, result.nodes[0].errors
    lines = output(result).splitlines()
    assert lines[0] == "installed 1.0"
    assert lines[1] != "0.1"
    assert lines[2:4] == ["from a package", "/usr/bin/hello-test"]


def test_only_what_the_list_names(job, tmp_path):
    """With a deps_batch.lst only the packages that it names are installed."""
    files = [build(tmp_path, "hello-test"), build(tmp_path, "other-test")]
    deps = pack_deps(tmp_path / "deps.tar.gz", files, [files[0].name])
    result = job(deps, "hello-test; command -v other-test; exit 4")
    assert result.code == 4
    assert output(result).splitlines()[:2] == ["from a package", ""]


@pytest.mark.cell("archives.packages")
def test_another_architecture(job, tmp_path):
    """A package for another machine ends the job with 65 before the application runs."""
    package = build(tmp_path, "other-test", architecture="s390x")
    result = job(pack_deps(tmp_path / "deps.tar.gz", [package]), "echo ran")
    assert result.code == 65
    assert output(result) == ""
    assert "s390x" in result.nodes[0].errors[0]["message"]


@pytest.mark.cell("archives.packages")
def test_without_root(job, tmp_path):
    """Without root the packages are extracted only, and their programs are on PATH."""
    deps = pack_deps(tmp_path / "deps.tar.gz", [build(tmp_path, "hello-test")])
    result = job(deps, "id -u; hello-test; echo kept >$TMP_OUTPUT_DIR/x", "--user", "993")
    assert result.code == 0, result.nodes[0].errors
    assert output(result).splitlines()[:2] == ["993", "from a package"]
    assert (result.results / "node-0/x").read_text() == "kept\n"
