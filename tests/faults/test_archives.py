"""Archives that are broken, closed, hostile or too large, through the whole agent."""

import io
import json
import os
import shutil
import stat
import subprocess
import tarfile

import pytest

from agent.tools.cluster.cluster import Cluster
from agent.tools.cluster.job import Job
from tests.image.test_packages import build, pack_deps
from tests.support.basics import PASSWORD, pack, with_checksums
from tests.support.clusters import codes, errors

PRIVATE, DEPS = "batch/private.7z", "batch/deps.tar.gz"


@pytest.fixture
def run(job, root, s3, s3_env, tmp_path):
    """Return what runs a job with one archive: (code, its first error, the agent's root).

    Around the agent's own root nothing may change.
    """

    def tree():
        return sorted(str(p) for p in tmp_path.rglob("*") if root not in (p, *p.parents))

    def start(key, path, password="", **env):
        prefix = os.urandom(4).hex()
        s3.put_file("bucket", f"{prefix}/{key}", path)
        other = "S3_BATCH_DEPS_REL_PATH" if key == PRIVATE else "S3_BATCH_PRIVATE_REL_PATH"
        before = tree()
        code, out, err = job(
            **s3_env
            | {"EXEC_TYPE": "batch", "S3_BUCKET": f"s3://bucket/{prefix}", other: "<none>"}
            | {"APP_BIN": "/bin/sh", "APP_PARAMS": "-c 'echo ran'"}
            | {"ARCHITRAVE_LAUNCHER": "direct", "PRIVATE_PASSWD": password}
            | env
        )
        assert tree() == before
        assert not list(root.rglob(".architrave*"))
        if code:
            assert "ran" not in out
            assert not list((root / "opt").iterdir())
            left = (root / "tmp/deps").rglob("*")
            assert [path.name for path in left if path.name != "deps_batch.lst"] == []
        lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
        found = [line for line in lines if line["level"] == "error"]
        return code, found[0] if found else {}, err

    return start


@pytest.fixture
def content(tmp_path):
    directory = tmp_path / "content"
    directory.mkdir()
    (directory / "app").write_bytes(os.urandom(100_000))
    return directory


@pytest.fixture
def tar(tmp_path, content):
    """Return a good deps.tar.gz without packages."""
    path = tmp_path / "deps.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        file.add(content / "app", "deps/app")
    return path


BROKEN = {
    "truncated": lambda data: data[: len(data) // 2],
    "corrupt": lambda data: data[:2000] + bytes(2000) + data[4000:],
    "empty": lambda data: b"",
    "no archive": lambda data: b"<html>not found</html>",
}


@pytest.mark.cell("archives.corrupt", "archives.deps")
@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("key", [PRIVATE, DEPS])
def test_broken(run, tmp_path, content, tar, key, how):
    path = pack(content, tmp_path / "private.7z") if key == PRIVATE else tar
    path.write_bytes(BROKEN[how](path.read_bytes()))
    code, error, err = run(key, path)
    assert code == 65, err
    assert os.path.basename(key) in error["what"] and error["hint"]


@pytest.mark.cell("archives.password")
@pytest.mark.parametrize("options", [["-mhe=on"], ["-mhe=off"]], ids=["header", "plain header"])
@pytest.mark.parametrize("password", ["not this", ""])
def test_password(run, tmp_path, content, options, password):
    path = tmp_path / "private.7z"
    subprocess.run(
        ["7zz", "a", "-bso0", "-p", *options, path, "."],
        cwd=content,
        input=f"{PASSWORD}\n{PASSWORD}\n",
        text=True,
        check=True,
        start_new_session=True,
    )
    code, error, err = run(PRIVATE, path, password)
    assert code == 77, err
    assert "private.7z" in error["what"] and "PRIVATE_PASSWD" in error["hint"]
    assert "not this" not in err
    assert run(PRIVATE, path, PASSWORD)[0] == 0


@pytest.mark.cell("archives.no-keys")
@pytest.mark.parametrize("mode", [0o644, 0o777, None])
def test_keys(cluster, keys, tmp_path, mode):
    """Keys that everybody may read are taken and closed; without keys several nodes can't meet."""
    directory = tmp_path / "content"
    directory.mkdir()
    if mode is not None:
        shutil.copytree(keys, directory, dirs_exist_ok=True)
        for path in directory.iterdir():
            path.chmod(mode)
    shutil.copy("/bin/true", directory / "program")
    private = pack(directory, tmp_path / "private.7z", PASSWORD)
    env = {"ARCHITRAVE_JOIN_TIMEOUT_SECONDS": "30"}
    with cluster(None, "", nodes=2, private=private, env=env) as running:
        result = running.wait()
    assert codes(result) == ([65, 65] if mode is None else [0, 0]), errors(result.nodes[0])
    if mode is None:
        assert "ssh_host_rsa_key" in errors(result.nodes[0])
        assert "architrave pack private" in result.nodes[0].errors[0]["hint"]


def tar_with(path, name, kind=tarfile.REGTYPE, link=""):
    with tarfile.open(path, "w:gz") as file:
        good = tarfile.TarInfo("deps/good")
        good.size = 4
        file.addfile(good, io.BytesIO(b"good"))
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, link
        file.addfile(member)
    return path


@pytest.mark.cell("archives.lead-out", "archives.deps")
@pytest.mark.parametrize(
    "member",
    [
        ("../out",),
        ("a/../../out",),
        ("/out",),
        ("link", tarfile.SYMTYPE, "../../out"),
        ("link", tarfile.SYMTYPE, "/etc/passwd"),
        ("link", tarfile.LNKTYPE, "../../out"),
        ("pipe", tarfile.FIFOTYPE),
    ],
    ids=str,
)
def test_deps_that_lead_out(run, tmp_path, member):
    code, error, err = run(DEPS, tar_with(tmp_path / "deps.tar.gz", *member))
    assert code == 65, err
    assert "deps.tar.gz" in error["message"]


@pytest.mark.cell("archives.lead-out")
@pytest.mark.parametrize("target", ["/etc/passwd", "../../out", "sub/../../out"])
def test_links_that_lead_out(run, tmp_path, content, target):
    """Of a private.7z too: neither the link nor what lies beside it is unpacked."""
    (content / "link").symlink_to(target)
    path = tmp_path / "private.7z"
    subprocess.run(["7zz", "a", "-bso0", "-snl", path, "."], cwd=content, check=True)
    code, error, err = run(PRIVATE, path)
    assert code == 65, err
    assert "link" in error["cause"]


@pytest.mark.cell("archives.lead-out")
@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out"])
def test_names_that_lead_out(run, tmp_path, content, name):
    """7-Zip itself packs no such name, so a name of the same length is replaced."""
    code, error, err = run(PRIVATE, pack_as(name, content, tmp_path / "private.7z"))
    assert code == 65, err
    assert repr(name) in error["cause"]


def pack_as(name, content, path):
    """Make a 7z archive in which the program has a name that 7-Zip itself would not give it."""
    stand_in = "x" * len(name)
    shutil.move(content / "app", content / stand_in)
    # Neither compressed nor encrypted: the header has the names as they are.
    pack(content, path, "", "-mhc=off", "-mx0")
    data = path.read_bytes()
    wide = [text.encode("utf-16-le") for text in (stand_in, name)]
    assert data.count(wide[0]) == 1
    path.write_bytes(with_checksums(data.replace(*wide)))
    return path


@pytest.mark.cell("archives.lead-out")
@pytest.mark.parametrize("name", ["run.sh", "run_batch.sh", "architrave/bin/python3"])
def test_names_of_the_agent(run, tmp_path, content, name):
    (content / name).parent.mkdir(parents=True, exist_ok=True)
    (content / name).write_text("#!/bin/sh\n")
    code, error, err = run(PRIVATE, pack(content, tmp_path / "private.7z"))
    assert code == 65, err
    assert os.path.normpath(name).partition("/")[0] in error["cause"]


@pytest.mark.cell("archives.lead-out")
@pytest.mark.parametrize("name", ["./run.sh", "././architrave/x"])
def test_names_of_the_agent_otherwise_written(run, tmp_path, content, name):
    """7-Zip unpacks these to the same path."""
    code, error, err = run(PRIVATE, pack_as(name, content, tmp_path / "private.7z"))
    assert code == 65, err
    assert os.path.normpath(name).partition("/")[0] in error["cause"]


@pytest.mark.cell("archives.no-space")
@pytest.mark.parametrize("kind", ["private", "deps"])
def test_no_space(image, tmp_path, kind):
    """More than the disk has: found out before, with numbers, and nothing partial is left."""
    content = tmp_path / "big"
    content.mkdir()
    (content / "zeros").write_bytes(bytes(64 << 20))
    archive = tmp_path / kind
    if kind == "deps":
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(content / "zeros", "zeros")
    else:
        pack(content, tmp_path / "private.7z").rename(archive)
    described = Job(
        image=image,
        env={"APP_BIN": "/bin/true", "ARCHITRAVE_ROOT": "/small"},
        results=tmp_path / "results",
        docker_args=("--tmpfs", "/small:size=16m"),
        **{kind: archive},
    )
    with Cluster(described) as running:
        result = running.wait()
    assert codes(result) == [71], errors(result.nodes[0])
    assert "67108864" in errors(result.nodes[0])
    assert "disk" in result.nodes[0].errors[0]["hint"]


@pytest.mark.cell("archives.no-7zip")
def test_no_7zip(run, tmp_path, content):
    empty = tmp_path / "bin"
    empty.mkdir()
    path = pack(content, tmp_path / "private.7z")
    code, error, err = run(PRIVATE, path, PATH=str(empty))
    assert code == 71, err
    assert "7zz" in error["message"] and "7zip" in error["hint"]


@pytest.mark.cell("archives.packages")
def test_package_that_fails_to_configure(image, tmp_path):
    """The line has dpkg's own message and the package's name; the application doesn't run."""
    deps = failing_package(tmp_path)
    env = {"APP_BIN": "/bin/echo", "APP_PARAMS": "ran", "ARCHITRAVE_LAUNCHER": "direct"}
    described = Job(image=image, deps=deps, env=env, results=tmp_path / "results")
    with Cluster(described) as running:
        result = running.wait()
    assert codes(result) == [65]
    assert "breaks-test" in errors(result.nodes[0])
    assert b"ran" not in result.nodes[0].stdout


def failing_package(directory):
    """Return a deps.tar.gz with a package whose configuration fails."""
    package = build(directory, "breaks-test")
    tree = directory / "breaks-test-tree"
    script = tree / "DEBIAN/postinst"
    script.write_text("#!/bin/sh\necho no >&2; exit 9\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    command = ["dpkg-deb", "--root-owner-group", "-b", tree, package]
    subprocess.run(command, check=True, capture_output=True)
    return pack_deps(directory / "deps.tar.gz", [package])


@pytest.mark.cell("security.s3-names")
@pytest.mark.parametrize("name", ["../../secret.deb", "/etc/secret.deb", "a/../b.deb"])
def test_a_list_that_leads_out(run, tmp_path, s3, name):
    """Names in deps_batch.lst are file names beside the list, whatever path they have."""
    listed = tmp_path / "deps_batch.lst"
    listed.write_text(f"{name}\n")
    code, error, err = run("batch/deps_batch.lst", listed, S3_BATCH_DEPS_REL_PATH=LISTED, **NONE)
    assert code == 66, err
    assert "/batch/" in error["message"] and ".." not in error["message"]


def test_a_package_that_is_not_beside_its_list(run, tmp_path):
    """The package is named that is missing, not the deps.tar.gz that the list replaces."""
    listed = tmp_path / "deps_batch.lst"
    listed.write_text("libmissing_1_amd64.deb\n")
    code, error, err = run(LISTED, listed, **NONE)
    assert code == 66, err
    assert "batch/libmissing_1_amd64.deb" in error["message"]


LISTED = "batch/deps_batch.lst"
NONE = {"S3_BATCH_PRIVATE_REL_PATH": "<none>"}


@pytest.mark.cell("security.s3-names")
@pytest.mark.parametrize("key", ["../../private.7z", "a/../../private.7z"])
def test_a_key_that_leads_out(run, tmp_path, content, key):
    """It is refused before anything is asked of S3."""
    path = pack(content, tmp_path / "private.7z")
    code, _, err = run(PRIVATE, path, S3_BATCH_PRIVATE_REL_PATH=key)
    assert code == 78
    assert key in err and "hint: " in err
