"""Fetching and unpacking, with a real S3 server, the real 7-Zip and real archives."""

import json
import os
import shutil
import subprocess
import tarfile

import pytest

from agent.core.errors import AgentError
from agent.staging import archive
from agent.tools.cluster.s3 import EmbeddedS3
from tests.support.basics import PASSWORD, pack

APP = "#!/bin/sh\necho running; echo kept >$TMP_OUTPUT_DIR/result.txt; exit ${1:-0}\n"


@pytest.fixture
def private(tmp_path, keys):
    """Return a directory of private files: a script, a real executable, a key pair."""
    directory = tmp_path / "private"
    shutil.copytree(keys, directory)
    (directory / "app").write_text(APP)
    (directory / "app").chmod(0o755)
    # With -mx9 7-Zip packs executables with the filter BCJ2.
    shutil.copy(shutil.which("ls"), directory / "ls")
    (directory / "data").mkdir()
    (directory / "data/x.txt").write_text("x")
    return directory


@pytest.fixture
def put(s3, tmp_path):
    """Return what puts a file into the bucket."""

    def put(key, path):
        s3.put_file("bucket", key, path)

    return put


@pytest.fixture
def batch(s3_env):
    """Return the environment of a batch job on one node whose objects have a prefix."""
    prefix = os.urandom(4).hex()
    return s3_env | {
        "EXEC_TYPE": "batch",
        "AWS_BATCH_JOB_ID": f"job-{prefix}",
        "S3_BUCKET": f"s3://bucket/{prefix}",
        "S3_BATCH_DEPS_REL_PATH": "<none>",
        "S3_BATCH_PRIVATE_REL_PATH": "<none>",
        "ARCHITRAVE_LAUNCHER": "direct",
        "APP_BIN": "/opt/app",
        "APP_PARAMS": "",
    }


def prefix_of(batch):
    return batch["S3_BUCKET"].rpartition("/")[2]


def errors(err):
    lines = [json.loads(line) for line in err.splitlines()]
    return [line for line in lines if line["level"] == "error"]


def with_private(batch):
    return {k: v for k, v in batch.items() if k != "S3_BATCH_PRIVATE_REL_PATH"}


def test_whole_job(job, root, batch, put, private, tmp_path, s3):
    """Fetched, unpacked with its password, run, uploaded; decrypted files are gone at the end."""
    put(f"{prefix_of(batch)}/batch/private.7z", pack(private, tmp_path / "p.7z", PASSWORD, "-mx9"))
    env = with_private(batch) | {"PRIVATE_PASSWD": PASSWORD, "APP_PARAMS": "3"}
    code, out, err = job(**env)
    assert code == 3, err
    assert out.startswith("running\n")
    prefix = f"{prefix_of(batch)}/output/{env['AWS_BATCH_JOB_ID']}/attempt-1"
    found = {key.removeprefix(prefix + "/") for key in s3.keys("bucket", prefix)}
    documents = {"run.json", "report.html", "manifest.json"}
    assert found == {"node-0/result.txt", "node-0/time.log", *documents}
    files = s3.download("bucket", prefix, tmp_path / "got")
    everything = b"".join(path.read_bytes() for path in files) + (out + err).encode()
    assert PASSWORD.encode() not in everything
    assert b"PRIVATE KEY" not in everything
    manifest = json.loads((tmp_path / "got/manifest.json").read_text())
    for file in manifest["files"]:
        path = tmp_path / "got" / file["path"]
        sha = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout
        assert (file["size"], file["sha256"]) == (path.stat().st_size, sha.split()[0])
    run = json.loads((tmp_path / "got/run.json").read_text())
    assert run["nodes"][0]["fetched"][0]["object"].endswith("batch/private.7z")
    assert not (root / "opt/app").exists() and not (root / "opt/ssh_host_rsa_key").exists()


def test_executables_and_modes_survive(private, tmp_path):
    """Files packed with the strongest filters come out as they were, and can be run."""
    path = pack(private, tmp_path / "p.7z", PASSWORD, "-mx9")
    (tmp_path / "out").mkdir()
    archive.unpack_7z(str(path), str(tmp_path / "out"), PASSWORD, set())
    assert (tmp_path / "out/ls").read_bytes() == (private / "ls").read_bytes()
    assert subprocess.run([tmp_path / "out/ls"], capture_output=True).returncode == 0


def refused(path, target, password="", forbidden=()):
    """Return the error of an archive that must not be unpacked."""
    target.mkdir()
    with pytest.raises(AgentError) as caught:
        archive.unpack_7z(str(path), str(target), password, set(forbidden))
    assert caught.value.hint
    return caught.value


def test_wrong_password(private, tmp_path):
    path = pack(private, tmp_path / "p.7z", PASSWORD)
    assert refused(path, tmp_path / "a", "wrong").code == 77
    error = refused(path, tmp_path / "b", "")
    assert error.code == 77 and "PRIVATE_PASSWD" in error.hint


def test_password_with_a_plain_header(private, tmp_path):
    subprocess.run(
        ["7zz", "a", "-bso0", "-p", tmp_path / "p.7z", "."],
        cwd=private,
        input=f"{PASSWORD}\n{PASSWORD}\n",
        text=True,
        check=True,
        start_new_session=True,
    )
    assert refused(tmp_path / "p.7z", tmp_path / "a", "wrong").code == 77
    (tmp_path / "b").mkdir()
    archive.unpack_7z(str(tmp_path / "p.7z"), str(tmp_path / "b"), PASSWORD, set())
    assert (tmp_path / "b/app").read_text() == APP


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_truncated(private, tmp_path, share):
    path = pack(private, tmp_path / "p.7z")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert refused(path, tmp_path / "out").code == 65


def test_not_an_archive(tmp_path):
    (tmp_path / "p.7z").write_text("no archive at all")
    assert refused(tmp_path / "p.7z", tmp_path / "out").code == 65


def test_agent_s_own_names_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/run.sh").write_text("#!/bin/sh\n")
    path = pack(tmp_path / "in", tmp_path / "p.7z")
    error = refused(path, tmp_path / "out", forbidden={"run.sh"})
    assert error.code == 65 and "run.sh" in error.cause


@pytest.mark.parametrize("target", ["/etc", "../../outside", ".."])
def test_links_that_lead_out_are_refused(tmp_path, target):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(target)
    subprocess.run(
        ["7zz", "a", "-bso0", "-snl", tmp_path / "p.7z", "."], cwd=tmp_path / "in", check=True
    )
    assert refused(tmp_path / "p.7z", tmp_path / "out").code == 65


@pytest.mark.parametrize("name", ["../out.txt", "/abs.txt", "a/../../b"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    """In a tar as well as in what 7-Zip lists; nothing outside the target is touched."""
    with tarfile.open(tmp_path / "d.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo(name)
        tar.addfile(member)
    (tmp_path / "out").mkdir()
    with pytest.raises(AgentError) as caught:
        archive.unpack_tar(str(tmp_path / "d.tar.gz"), str(tmp_path / "out"))
    assert caught.value.code == 65
    assert sorted(p.name for p in tmp_path.rglob("*.txt")) == []


def test_corrupt_tar(tmp_path):
    with tarfile.open(tmp_path / "d.tar.gz", "w:gz") as tar:
        tar.add(shutil.which("ls"), "ls")
    whole = (tmp_path / "d.tar.gz").read_bytes()
    for content in (
        b"",
        whole[: len(whole) // 2],
        b"text",
        whole[:200] + b"\0" * 500 + whole[700:],
    ):
        (tmp_path / "d.tar.gz").write_bytes(content)
        target = tmp_path / f"out{len(content)}"
        target.mkdir()
        with pytest.raises(AgentError) as caught:
            archive.unpack_tar(str(tmp_path / "d.tar.gz"), str(target))
        assert caught.value.code == 65


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, 66),
        ({"S3_BUCKET": "s3://no-such-bucket/x"}, 66),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, 77),
        ({"AWS_ACCESS_KEY_ID": "UNKNOWN"}, 77),
        (
            {
                "AWS_ACCESS_KEY_ID": "",
                "AWS_SECRET_ACCESS_KEY": "",
                "AWS_EC2_METADATA_DISABLED": "true",
            },
            77,
        ),
    ],
)
@pytest.mark.cell("s3.refused")
def test_what_s3_refuses(job, batch, change, code):
    """Missing objects are 66, refused keys 77; the line names the object and the next thing."""
    found, _, err = job(**with_private(batch) | change)
    assert found == code, err
    first = errors(err)[0]
    assert "s3://" in first["message"] and first["hint"]


@pytest.mark.parametrize(("change", "code"), [({}, 66), ({"AWS_ACCESS_KEY_ID": "UNKNOWN"}, 77)])
def test_the_hint_for_packages_that_are_not_there_says_how_to_do_without(job, batch, change, code):
    """A job that needs no deps.tar.gz and looks for it gets the setting that switches it off."""
    off = {"S3_BATCH_PRIVATE_REL_PATH": "<none>", "S3_BATCH_DEPS_REL_PATH": "batch/deps.tar.gz"}
    found, _, err = job(**batch | off | change)
    assert found == code, err
    assert "S3_BATCH_DEPS_REL_PATH='<none>'" in errors(err)[0]["hint"]


@pytest.mark.cell("s3.lasting")
def test_s3_that_is_not_there(job, batch):
    env = with_private(batch) | {
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "AWS_MAX_ATTEMPTS": "2",
    }
    code, _, err = job(**env)
    assert code == 69 and errors(err)[0]["hint"]


@pytest.mark.cell("archives.password")
def test_wrong_password_ends_the_job(job, root, batch, put, private, tmp_path):
    put(f"{prefix_of(batch)}/batch/private.7z", pack(private, tmp_path / "p.7z", PASSWORD))
    code, _, err = job(**with_private(batch), PRIVATE_PASSWD="not-this-one")
    assert code == 77 and "PRIVATE_PASSWD" in errors(err)[0]["hint"]
    assert "not-this-one" not in err
    assert os.listdir(root / "opt") == []


def test_large_object_in_parts_is_verified(job, batch, put, private, tmp_path):
    """An archive that was uploaded in parts is checked against its parts' checksums."""
    (private / "big").write_bytes(os.urandom(40 << 20))
    put(f"{prefix_of(batch)}/batch/private.7z", pack(private, tmp_path / "p.7z", "", "-mx0"))
    code, _, err = job(**with_private(batch))
    assert code == 0, err
    progress = [json.loads(line) for line in err.splitlines() if '"progress"' in line]
    assert 2 <= len(progress) <= 22
    assert progress[-1]["percent"] == 100


def test_results_are_what_the_application_made(job, batch, root, s3, put, private, tmp_path):
    """In a directory with other files only new and changed ones are uploaded, less the excluded."""
    (root / "tmp").mkdir()
    (root / "tmp/old").write_text("old")
    (root / "opt/app").write_text("#!/bin/sh\ncd $TMP_OUTPUT_DIR; echo 1 >new; echo 2 >no.tmp\n")
    env = batch | {"TMP_OUTPUT_DIR": str(root / "tmp"), "ARCHITRAVE_OUTPUT_EXCLUDE": "*.tmp"}
    assert job(**env)[0] == 0
    prefix = f"{prefix_of(batch)}/output/{env['AWS_BATCH_JOB_ID']}/attempt-1/node-0"
    assert sorted(k.rpartition("/")[2] for k in s3.keys("bucket", prefix)) == ["new", "time.log"]


class ReadOnlyS3(EmbeddedS3):
    """A server whose only user may read."""

    def _write_credentials(self):
        super()._write_credentials()
        path = self._directory / "s3.json"
        path.write_text(path.read_text().replace("Admin", "Read"))


@pytest.mark.cell("s3.no-right-to-write")
def test_results_that_cannot_be_written(job, batch, root, tmp_path):
    """It is found out before the run, not after it: 77, and the application never starts."""
    (root / "opt/app").write_text("#!/bin/sh\necho ran\n")
    with ReadOnlyS3(tmp_path / "s3") as server:
        code, out, err = job(**batch | server.environment())
    assert code == 77 and "ran" not in out, err
    assert "s3:PutObject" in errors(err)[0]["hint"]


def test_packages_below_the_agent_s_root(job, batch, root, put, tmp_path):
    """Without root's system the files of a package are laid out and its programs are found."""
    deb = tmp_path / "deb"
    (deb / "DEBIAN").mkdir(parents=True)
    (deb / "DEBIAN/control").write_text(
        "Package: hello-test\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\n"
        "Description: test\n"
    )
    (deb / "usr/bin").mkdir(parents=True)
    (deb / "usr/bin/hello-test").write_text("#!/bin/sh\necho from a package\n")
    (deb / "usr/bin/hello-test").chmod(0o755)
    name = "hello-test_1_all.deb"
    subprocess.run(["dpkg-deb", "-b", deb, tmp_path / name], check=True, capture_output=True)
    (root / "opt/app").write_text("#!/bin/sh\nhello-test\n")
    # By the list, each package beside it; then in one archive.
    (tmp_path / "deps_batch.lst").write_text(f"{name}\n")
    for key in ("deps_batch.lst", name):
        put(f"{prefix_of(batch)}/batch/{key}", tmp_path / key)
    env = batch | {"S3_BATCH_DEPS_REL_PATH": "batch/deps.tar.gz"}
    code, out, err = job(**env)
    assert code == 0 and out.startswith("from a package\n"), err
    with tarfile.open(tmp_path / "deps.tar.gz", "w:gz") as tar:
        for file in ("deps_batch.lst", name):
            tar.add(tmp_path / file, f"deps/{file}")
    put(f"{prefix_of(batch)}/batch/deps.tar.gz", tmp_path / "deps.tar.gz")
    code, out, err = job(**env)
    assert code == 0 and out.startswith("from a package\n"), err


@pytest.mark.cell("archives.packages")
def test_package_of_another_architecture(job, batch, root, put, tmp_path):
    (tmp_path / "deb/DEBIAN").mkdir(parents=True)
    (tmp_path / "deb/DEBIAN/control").write_text(
        "Package: other-test\nVersion: 1\nArchitecture: s390x\nMaintainer: x <x@example.org>\n"
        "Description: test\n"
    )
    name = "other-test_1_s390x.deb"
    subprocess.run(
        ["dpkg-deb", "-b", tmp_path / "deb", tmp_path / name], check=True, capture_output=True
    )
    with tarfile.open(tmp_path / "deps.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / name, name)
    put(f"{prefix_of(batch)}/batch/deps.tar.gz", tmp_path / "deps.tar.gz")
    code, _, err = job(**batch | {"S3_BATCH_DEPS_REL_PATH": "batch/deps.tar.gz"})
    assert code == 65 and "s390x" in errors(err)[0]["message"]


@pytest.mark.cell("s3.upload-fails")
def test_one_odd_result_does_not_cost_the_others(job, batch, root, s3):
    """A name that isn't UTF-8 fails alone: the others go up, the code is 73, no manifest comes."""
    app = b"#!/bin/sh\ncd $TMP_OUTPUT_DIR; echo 1 >good; echo 2 >\"$(printf 'odd\\377')\"\n"
    (root / "opt/app").write_bytes(app)
    code, _, err = job(**batch)
    assert code == 73, err
    prefix = f"{prefix_of(batch)}/output/{batch['AWS_BATCH_JOB_ID']}/attempt-1"
    names = [key.removeprefix(prefix + "/") for key in s3.keys("bucket", prefix)]
    assert sorted(names) == ["node-0/good", "node-0/time.log", "report.html", "run.json"]
