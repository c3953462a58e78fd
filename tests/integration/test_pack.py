"""`architrave pack`: what it packs is what a job unpacks."""

import os
import subprocess
import tarfile

import pytest

from agent.staging import archive
from tests.support.basics import PASSWORD, REPOSITORY


@pytest.fixture
def packed(agent, tmp_path):
    """Return what runs `architrave pack` in a directory: (exit code, output, complaint)."""
    (tmp_path / "here").mkdir()

    def run(*arguments, **env):
        env = {"PYTHONPATH": str(REPOSITORY)} | env
        process = agent("pack", *map(str, arguments), env=env, cwd=tmp_path / "here")
        out, errors = process.communicate(timeout=110)
        return process.returncode, out, errors

    return run


@pytest.fixture
def program(tmp_path):
    directory = tmp_path / "program"
    (directory / "examples").mkdir(parents=True)
    (directory / "simest").write_text("#!/bin/sh\n")
    (directory / "simest").chmod(0o755)
    (directory / "examples/with blank").write_bytes(bytes(range(256)) * 1000)
    (directory / "link").symlink_to("simest")
    return directory


def unpacked(path, target, password=PASSWORD):
    target.mkdir()
    archive.unpack_7z(str(path), str(target), password, set())
    return target


def test_private(packed, program, tmp_path):
    code, out, errors = packed("private", program, PRIVATE_PASSWD=PASSWORD)
    assert code == 0, errors
    assert "private.7z" in out and PASSWORD not in out + errors
    again = unpacked(tmp_path / "here/private.7z", tmp_path / "again")
    assert (again / "examples/with blank").read_bytes() == bytes(range(256)) * 1000
    assert (again / "simest").stat().st_mode & 0o111
    assert (again / "link").is_symlink()
    # The pair is made once, and then kept.
    key = (program / "ssh_host_rsa_key").read_bytes()
    assert (again / "ssh_host_rsa_key").read_bytes() == key
    assert packed("private", program, PRIVATE_PASSWD=PASSWORD)[0] == 0
    assert (program / "ssh_host_rsa_key").read_bytes() == key
    names = {path.name for path in (tmp_path / "here").iterdir()}
    assert names == {"private.7z"}


def test_names_cannot_be_read_without_the_password(packed, program, tmp_path):
    packed("private", program, PRIVATE_PASSWD=PASSWORD)
    assert b"simest" not in (tmp_path / "here/private.7z").read_bytes()
    arguments = [archive.seven_zip(), "l", tmp_path / "here/private.7z"]
    listed = subprocess.run(
        arguments, input=b"wrong\n", capture_output=True, start_new_session=True
    )
    assert listed.returncode != 0


def test_password_from_a_file_and_none(packed, program, tmp_path):
    (tmp_path / "secret").write_text(f"{PASSWORD}\r\nanother line\n")
    assert packed("private", program, "--password-file", tmp_path / "secret")[0] == 0
    unpacked(tmp_path / "here/private.7z", tmp_path / "one")
    code, out, _ = packed("private", program, "--no-password", "--to", "open.7z")
    assert code == 0 and "open.7z" in out
    unpacked(tmp_path / "here/open.7z", tmp_path / "two", "")


@pytest.mark.parametrize(
    ("arguments", "env", "code", "named"),
    [
        (["private", "nowhere"], {"PRIVATE_PASSWD": "x"}, 64, "nowhere"),
        (["private", "PROGRAM"], {}, 78, "--password-file"),
        (["private", "PROGRAM"], {"PRIVATE_PASSWD": ""}, 78, "--no-password"),
        (["private", "PROGRAM"], {"PRIVATE_PASSWD": "<none>"}, 78, "<none>"),
        (["private", "PROGRAM", "--password-file", "none"], {}, 66, "none"),
        (["private", "PROGRAM", "--password-file", "/bin/sh"], {}, 78, "/bin/sh"),
        (["private", "PROGRAM", "--to", "no/where.7z"], {"PRIVATE_PASSWD": "x"}, 73, "no/where"),
        (["private", "PROGRAM", "--to", "/"], {"PRIVATE_PASSWD": "x"}, 73, "--to"),
        (["deps", "--here", "x", "--to", "no/where.tar.gz"], {}, 73, "no/where"),
        (["private", "PROGRAM", "--upload", "http://x"], {"PRIVATE_PASSWD": "x"}, 78, "http://x"),
        (["deps"], {}, 64, "--binary"),
        (["deps", "--here", "--binary", "nowhere"], {}, 78, "nowhere"),
        (["all"], {}, 64, "all"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_arguments(packed, program, arguments, env, code, named):
    arguments = [program if one == "PROGRAM" else one for one in arguments]
    found, _, errors = packed(*arguments, **env)
    assert found == code and named in errors and "hint:" in errors


@pytest.mark.parametrize("target", ["private.7z", "examples/p.7z"])
def test_an_archive_inside_what_it_packs_is_refused(packed, program, target):
    """A target in the directory is refused by name before anything is made there."""
    before = sorted(program.rglob("*"))
    arguments = ("private", program, "--to", program / target)
    code, _, errors = packed(*arguments, PRIVATE_PASSWD=PASSWORD)
    assert code == 64 and "--to" in errors
    assert sorted(program.rglob("*")) == before


def test_names_of_the_agent_s_own_are_refused(packed, program):
    (program / "run.sh").write_text("")
    code, _, errors = packed("private", program, PRIVATE_PASSWD=PASSWORD)
    assert code == 64 and "run.sh" in errors


def test_upload(packed, program, s3, s3_env):
    arguments = ("private", program, "--upload", "s3://bucket/packed")
    code, out, errors = packed(*arguments, PRIVATE_PASSWD=PASSWORD, **s3_env)
    assert code == 0, errors
    assert "s3://bucket/packed/private.7z" in out
    assert list(s3.keys("bucket", "packed/")) == ["packed/private.7z"]


def in_container(image, directory, script):
    """Run a script in a container of the image, with a directory at /given; return its output."""
    arguments = ["docker", "run", "--rm", "-v", f"{directory}:/given", "--entrypoint", "sh", image]
    done = subprocess.run([*arguments, "-ec", script], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


GET_HPCC = """
cd /given && apt-get -qq update && apt-get -qq download hpcc
dpkg-deb -x hpcc_*.deb x && cp x/usr/bin/hpcc . && rm -r x hpcc_*.deb
ldd hpcc | grep 'not found'
"""
INSTALL = "dpkg -i /given/debs/*.deb >/dev/null && ldd /given/hpcc"


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_deps_of_a_binary(packed, image, tmp_path):
    """A real program, nothing but its file known: with what was packed the image can load it."""
    given = tmp_path / "given"
    given.mkdir()
    assert "not found" in in_container(image, given, GET_HPCC)
    code, out, errors = packed("deps", "--image", image, "--binary", given / "hpcc")
    assert code == 0, errors + out
    here = tmp_path / "here"
    with tarfile.open(here / "deps.tar.gz") as tar:
        names = tar.getnames()
        tar.extractall(given / "debs")
    assert names[0] == "deps_batch.lst"
    assert (here / "deps_batch.lst").read_text().split() == names[1:] != []
    assert "not found" not in in_container(image, given, INSTALL)
    # What the image has by now is not packed again.
    code, out, _ = packed("deps", "--image", image, "coreutils", "--to", "more.tar.gz")
    assert code == 0 and "S3_BATCH_DEPS_REL_PATH" in out
    assert not (here / "more.tar.gz").exists()


def test_deps_for_a_real_image_that_is_not_there(packed, image):
    """The real Docker's failure is treated alike."""
    code, _, errors = packed("deps", "--image", "127.0.0.1:9/no-such-image", "hello")
    assert code == 69 and "127.0.0.1:9" in errors and "docker pull" in errors


@pytest.mark.timeout(200)
def test_unknown_deps(packed, image):
    code, _, errors = packed("deps", "--image", image, "no-such-package-at-all")
    assert code == 66 and "no-such-package-at-all" in errors


def test_deps_for_an_image_that_is_not_there(packed, tmp_path):
    """Docker's own failure is 69, with its message and what to do about an image."""
    docker = tmp_path / "bin/docker"
    docker.parent.mkdir()
    docker.write_text(
        "#!/bin/sh\n"
        "echo \"Unable to find image 'none:1' locally\" >&2\n"
        "echo 'docker: pull access denied for none' >&2\n"
        "echo >&2\n"
        "echo \"Run 'docker run --help' for more information\" >&2\n"
        "exit 125\n"
    )
    docker.chmod(0o755)
    path = f"{docker.parent}:{os.environ['PATH']}"
    code, _, errors = packed("deps", "--image", "none:1", "hello", PATH=path)
    assert code == 69 and "pull access denied" in errors
    assert "docker pull" in errors and "apt-cache" not in errors
