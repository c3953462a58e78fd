"""`doctor` finds before a job what would end it, with its code and a hint; it changes nothing."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.test_application import without_library
from tests.support.basics import PASSWORD, pack, until
from tests.support.s3proxy import FailingS3

LIBC = next(Path("/lib").glob("*-linux-gnu/libc.so.6"))
LAMBDA = {"EXEC_TYPE": "lambda", "ARCHITRAVE_LAUNCHER": "direct"}


@pytest.fixture
def doctor(agent):
    """Return what runs the doctor to its end: (exit code, {name: findings}, what it printed)."""

    def run(timeout=60, **env):
        process = agent("doctor", "--json", env=env)
        out, errors = process.communicate(timeout=timeout)
        assert not errors
        report = json.loads(out)
        assert report["schema"] == "architrave-doctor/1" and report["code"] == process.returncode
        found = {}
        for one in report["checks"]:
            found.setdefault(one["name"], []).append(one)
            assert one["verdict"] in ("PASS", "SKIP") or one["hint"], one
        return process.returncode, found, out

    return run


def verdicts(found, verdict="FAIL"):
    return [name for name, ones in found.items() if any(one["verdict"] == verdict for one in ones)]


def what(found, name):
    (one,) = found[name]
    return one["what"]


@pytest.fixture
def batch(s3, s3_env, keys, tmp_path):
    """Return the environment of a batch job whose encrypted archive lies on S3."""
    content = tmp_path / "content"
    shutil.copytree(keys, content)
    shutil.copy(shutil.which("ls"), content / "app")
    prefix = os.urandom(4).hex()
    s3.put_file("bucket", f"{prefix}/batch/private.7z", pack(content, tmp_path / "p.7z", PASSWORD))
    return s3_env | {
        "EXEC_TYPE": "batch",
        "S3_BUCKET": f"s3://bucket/{prefix}",
        "S3_BATCH_DEPS_REL_PATH": "<none>",
        "PRIVATE_PASSWD": PASSWORD,
        "ARCHITRAVE_LAUNCHER": "direct",
        "APP_BIN": "/opt/app",
    }


def upload(s3, batch, path, name="private.7z"):
    s3.put_file("bucket", f"{batch['S3_BUCKET'].rpartition('/')[2]}/batch/{name}", path)


def test_a_healthy_job(doctor, batch, root, s3):
    """Nothing fails, and afterwards nothing is there that was not there before."""
    before = sorted(root.rglob("*"))
    code, found, _ = doctor(**batch)
    assert code == 0 and verdicts(found) == []
    passed = {"private.7z", "results", "clock", "archive", "disk", "program", "launcher"}
    assert passed <= set(verdicts(found, "PASS"))
    usual = {root / "tmp", root / "var", root / "var/tmp"}
    assert {path for path in root.rglob("*") if path not in before} <= usual
    prefix = batch["S3_BUCKET"].rpartition("/")[2]
    assert list(s3.keys("bucket", prefix)) == [f"{prefix}/batch/private.7z"]


@pytest.mark.parametrize("header", ["on", "off"], ids=["header encrypted", "header open"])
def test_wrong_password(doctor, batch, tmp_path, s3, header):
    """77, whether or not the names can be read; the program is not judged."""
    archive = tmp_path / "other.7z"
    command = ["7zz", "a", "-bso0", "-bsp0", f"-mhe={header}", "-p", archive, "."]
    given = {"input": f"{PASSWORD}\n{PASSWORD}\n", "stdout": subprocess.DEVNULL}
    subprocess.run(
        command, cwd=tmp_path / "content", text=True, check=True, start_new_session=True, **given
    )
    upload(s3, batch, archive)
    code, found, _ = doctor(**batch | {"PRIVATE_PASSWD": "not this one"})
    assert (code, verdicts(found)) == (77, ["archive"])
    assert "private.7z" in what(found, "archive")
    assert found["program"][0]["verdict"] == "SKIP"
    assert doctor(**batch)[0] == 0


def test_no_such_object(doctor, batch):
    code, found, _ = doctor(**batch | {"S3_BATCH_PRIVATE_REL_PATH": "batch/other.7z"})
    assert (code, verdicts(found)) == (66, ["private.7z"])


def test_no_right_to_write(doctor, batch, s3):
    """77 before the run, not after ten hours."""
    with FailingS3(s3.endpoint) as proxy:
        proxy.rule("PUT", r"\.write-probe", status=403, code="AccessDenied")
        code, found, _ = doctor(**batch | {"AWS_ENDPOINT_URL_S3": proxy.endpoint})
    assert (code, verdicts(found)) == (77, ["results"])


def test_an_endpoint_that_never_answers(doctor, batch):
    """69 after some seconds; what else would ask it is not asked, the rest is checked."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        code, found, _ = doctor(**batch | {"AWS_ENDPOINT_URL_S3": endpoint})
    assert time.monotonic() - start < 30
    assert (code, verdicts(found)) == (69, ["private.7z"])
    assert found["results"][0]["verdict"] == "SKIP"
    assert {"memory", "launcher"} <= set(verdicts(found, "PASS"))


@pytest.mark.parametrize(
    ("offset", "verdict"), [("+20m", "FAIL"), ("-1m", "WARN"), ("+1s", "PASS")]
)
def test_clock(doctor, batch, offset, verdict):
    """Against S3's own Date header."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip("apt-get install faketime")
    faked = {"LD_PRELOAD": str(library), "FAKETIME_NO_CACHE": "1", "FAKETIME": offset}
    code, found, _ = doctor(**batch | faked)
    assert found["clock"][0]["verdict"] == verdict, found
    assert code == (77 if verdict == "FAIL" else 0)


def test_missing_library_in_the_archive(doctor, batch, tmp_path, s3):
    missing = without_library(tmp_path / "content/app")
    upload(s3, batch, pack(tmp_path / "content", tmp_path / "other.7z", PASSWORD))
    code, found, _ = doctor(**batch)
    assert (code, verdicts(found)) == (127, ["program"])
    assert missing in what(found, "program")


def test_libraries_that_are_too_old(doctor, root):
    """The loader ends such a program with 1, so that only a check before names the cause."""
    content = Path("/bin/ls").read_bytes()
    wanted = max(set(re.findall(rb"GLIBC_2\.\d\d\0", content)))
    (root / "opt/app").write_bytes(content.replace(wanted, b"GLIBC_9.99\0"))
    code, found, _ = doctor(**LAMBDA, APP_BIN="/opt/app")
    assert code == 1 and what(found, "program").endswith(": GLIBC_9.99")


def test_library_beside_the_program(doctor, batch, root, tmp_path, s3):
    """LD_LIBRARY_PATH may name a directory of the archive, which lies elsewhere now."""
    missing = without_library(tmp_path / "content/app")
    (tmp_path / "content/lib").mkdir()
    shutil.copy(LIBC, tmp_path / "content/lib" / missing)
    upload(s3, batch, pack(tmp_path / "content", tmp_path / "other.7z", PASSWORD))
    assert doctor(**batch)[0] == 127
    assert doctor(**batch | {"LD_LIBRARY_PATH": f"{root}/opt/lib"})[0] == 0


@pytest.mark.skipif(not shutil.which("gcc"), reason="no compiler")
def test_library_that_the_program_names(doctor, batch, root, tmp_path, s3):
    """So may the program itself (RUNPATH), and that library another one."""
    lib = tmp_path / "content/lib"
    lib.mkdir()
    common = ["-x", "c", "-", f"-Wl,-rpath,{root}/opt/lib", f"-L{lib}", "-Wl,--no-as-needed"]
    for output, source, options in (
        (lib / "libinner.so", "int inner;", ["-shared"]),
        (lib / "libouter.so", "int outer;", ["-shared", "-linner"]),
        (tmp_path / "content/app", "int main(void) { return 0; }", ["-louter"]),
    ):
        command = ["gcc", *common, *options, "-o", output]
        subprocess.run(command, input=source, text=True, check=True)
    upload(s3, batch, pack(tmp_path / "content", tmp_path / "other.7z", PASSWORD))
    assert doctor(**batch)[0] == 0
    (lib / "libinner.so").unlink()
    upload(s3, batch, pack(tmp_path / "content", tmp_path / "third.7z", PASSWORD))
    code, found, _ = doctor(**batch)
    assert code == 127 and what(found, "program").endswith(": libinner.so")


@pytest.mark.parametrize(
    ("text", "code", "cause"),
    [
        ("#!/bin/nothing\n", 127, "/bin/nothing"),
        ("#!/usr/bin/env nothing-here\n", 127, "nothing-here"),
        ("#!/bin/sh\r\n", 127, "Windows"),
        ("echo\n", 126, "neither"),
        ("\x7fELF", 126, "ELF"),
    ],
)
def test_files_that_do_not_start(doctor, root, text, code, cause):
    (root / "opt/app").write_text(text, newline="")
    found = doctor(**LAMBDA, APP_BIN="/opt/app")
    assert (found[0], verdicts(found[1])) == (code, ["program"])
    assert cause in what(found[1], "program")


@pytest.mark.parametrize(("name", "code"), [("nothing", 127), ("", 126)])
def test_no_program(doctor, name, code):
    assert doctor(**LAMBDA, APP_BIN=f"/opt/{name}")[0] == code


def test_another_machine(doctor, root):
    header = bytearray(Path("/bin/true").read_bytes())
    header[18:20] = (183).to_bytes(2, "little")
    (root / "opt/app").write_bytes(header)
    code, found, _ = doctor(**LAMBDA, APP_BIN="/opt/app")
    assert code == 126 and "aarch64" in what(found, "program")


def test_packages_are_laid_out_and_not_installed(doctor, batch, tmp_path, s3):
    """A program's library that only deps.tar.gz has is found there."""
    missing = without_library(tmp_path / "content/app")
    upload(s3, batch, pack(tmp_path / "content", tmp_path / "other.7z", PASSWORD))
    deb = tmp_path / "deb"
    (deb / "DEBIAN").mkdir(parents=True)
    (deb / "DEBIAN/control").write_text(
        "Package: made-up-for-the-doctor\nVersion: 1\nArchitecture: all\n"
        "Maintainer: nobody\nDescription: a library\n"
    )
    (deb / "usr/lib/made").mkdir(parents=True)
    shutil.copy(LIBC, deb / "usr/lib/made" / missing)
    made = ["dpkg-deb", "-b", deb, tmp_path / "made.deb"]
    subprocess.run(made, check=True, capture_output=True)
    tar = ["tar", "-czf", tmp_path / "deps.tar.gz", "-C", tmp_path, "made.deb"]
    subprocess.run(tar, check=True)
    upload(s3, batch, tmp_path / "deps.tar.gz", "deps.tar.gz")
    batch.pop("S3_BATCH_DEPS_REL_PATH")
    _, found, _ = doctor(**batch)
    assert re.match(r"1\b", what(found, "packages"))
    assert missing not in what(found, "program")
    listed = ["dpkg", "-s", "made-up-for-the-doctor"]
    assert subprocess.run(listed, capture_output=True).returncode != 0


def test_bad_settings(doctor):
    """The settings' own code; what doesn't need them is checked all the same."""
    code, found, _ = doctor(EXEC_TYPE="batch", ARCHITRAVE_SLOTS="many")
    assert (code, verdicts(found)) == (78, ["settings"])
    assert "memory" in verdicts(found, "PASS")
    assert doctor()[0] == 64


def test_a_password_that_can_not_be_read(doctor, tmp_path):
    """Its file may lie on a file system that has died: nothing hangs, the rest is checked."""
    os.mkfifo(tmp_path / "password")
    code, found, _ = doctor(EXEC_TYPE="batch", PRIVATE_PASSWD_FILE=str(tmp_path / "password"))
    assert (code, verdicts(found)) == (77, ["settings"])
    assert "memory" in verdicts(found, "PASS")


def test_a_typing_error(doctor):
    code, found, _ = doctor(**LAMBDA, APP_BIN="/bin/true", ARCHITRAVE_LUANCHER="each")
    assert (code, verdicts(found, "WARN")) == (0, ["names"])
    assert "ARCHITRAVE_LAUNCHER" in found["names"][0]["hint"]


def test_no_secret_is_shown(doctor, batch, tmp_path):
    """Neither the password nor a key, wherever they were put by mistake."""
    secret = batch["AWS_SECRET_ACCESS_KEY"]
    env = {"ARCHITRAVE_OUTPUT": f"s3://bucket/{secret}", "APP_BIN": f"/opt/{PASSWORD}"}
    code, found, out = doctor(**batch | env)
    assert code == 127
    assert PASSWORD not in out and secret not in out and "***" in what(found, "program")
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    env |= {"PRIVATE_PASSWD": "", "PRIVATE_PASSWD_FILE": str(path)}
    assert PASSWORD not in doctor(**batch | env)[2]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("size", ["40k", "120k"], ids=["not even packed", "packed only"])
def test_too_little_space(doctor, batch, root, tmp_path, size):
    """71, as the job would find out while it unpacks."""
    (root / "tmp").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", root / "tmp"]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this container may not mount")
    try:
        (root / "opt").rmdir()
        (root / "tmp/opt").mkdir()
        (root / "opt").symlink_to(root / "tmp/opt")
        code, found, _ = doctor(**batch)
    finally:
        subprocess.run(["umount", root / "tmp"], check=True)
    assert code == 71 and {"archive", "disk"} & set(verdicts(found)), found


def several(index, **env):
    return env | {
        "AWS_BATCH_JOB_ID": "j",
        "AWS_BATCH_JOB_NUM_NODES": "3",
        "AWS_BATCH_JOB_NODE_INDEX": str(index),
        "ARCHITRAVE_ADDRESS": "127.0.0.2",
    }


def test_a_port_that_is_taken(doctor, batch):
    """71, and the others are not waited for."""
    with socket.create_server(("127.0.0.2", 0)) as taken:
        env = {"ARCHITRAVE_SSH_PORT": str(taken.getsockname()[1])}
        code, found, _ = doctor(**several(0, **batch) | env)
    assert (code, verdicts(found)) == (71, ["port"])
    assert found["nodes"][0]["verdict"] == "SKIP"


def test_no_key_in_the_archive(doctor, batch):
    """65 on several nodes, as the job ends; a single one needs none."""
    env = {"SSH_PRIV_FILE_KEY": "other_key", "ARCHITRAVE_SSH_PORT": "22222"}
    code, found, _ = doctor(**several(0, **batch) | env)
    assert code == 65 and "ssh key" in verdicts(found)
    assert doctor(**batch | env)[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal(agent, batch, root, number):
    """It ends at once with 128+N, also while S3 is silent, and leaves nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = agent("doctor", env=batch | {"AWS_ENDPOINT_URL_S3": endpoint})
        silent.accept()
        process.send_signal(number)
        start = time.monotonic()
        process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert time.monotonic() - start < 5
    assert list((root / "var/tmp").iterdir()) == []


def test_a_signal_while_it_fetches(agent, batch, root, tmp_path, s3):
    """What was fetched so far is gone, and 7-Zip with it."""
    (tmp_path / "content/large").write_bytes(os.urandom(1 << 20) * 256)
    upload(s3, batch, pack(tmp_path / "content", tmp_path / "o.7z", PASSWORD, "-mx=0"))
    process = agent("doctor", env=batch)
    until(lambda: any((root / "var/tmp").rglob("private.7z*")))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert list((root / "var/tmp").iterdir()) == []


def test_text_output(agent, batch):
    """A line a check within 100 columns, without colours off a terminal; a summary at the end."""
    out, _ = agent("doctor", env=batch | {"PRIVATE_PASSWD": "wrong one"}).communicate(timeout=60)
    lines = out.splitlines()
    assert all(len(line) <= 100 for line in lines) and "\x1b" not in out
    assert ["FAIL", "archive"] in [line.split()[:2] for line in lines]
    failed = sum(line.startswith("FAIL") for line in lines)
    passed = sum(line.startswith("PASS") for line in lines)
    sums = [int(number) for number in re.findall(r"\d+", lines[-1])]
    assert (sums[0], sums[-1]) == (passed, failed) and failed


def test_two_at_once(agent, batch, root):
    """The second one exits with 75 and doesn't touch the first one's files."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env = batch | {"AWS_ENDPOINT_URL_S3": endpoint}
        first = agent("doctor", env=env)
        silent.accept()
        second = agent("doctor", env=env)
        second.communicate(timeout=20)
        assert second.returncode == 75
        assert any((root / "var/tmp").iterdir())
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=20)
