"""An S3 that fails: passing or lasting errors, refusals, wrong bytes, uploads that break off."""

import hashlib
import json
import os
import time

import pytest
import trustme

from tests.support.basics import pack, slow
from tests.support.s3proxy import FailingS3

KEY = "batch/private.7z"
SCRIPT = "echo ran; cd $TMP_OUTPUT_DIR; echo 1 >one; echo 2 >two; exit ${CODE:-0}"


@pytest.fixture
def failing(s3):
    """Return the failing server in front of the real one."""
    with FailingS3(s3.endpoint) as server:
        yield server


@pytest.fixture
def batch(s3, s3_env, failing, keys, tmp_path):
    """Return the environment of a job on one node that has an archive and makes two results."""
    prefix = os.urandom(4).hex()
    archive = pack(keys, tmp_path / "private.7z")
    s3.put_file("bucket", f"{prefix}/{KEY}", archive)
    return s3_env | {
        "AWS_ENDPOINT_URL_S3": failing.endpoint,
        "EXEC_TYPE": "batch",
        "AWS_BATCH_JOB_ID": f"job-{prefix}",
        "S3_BUCKET": f"s3://bucket/{prefix}",
        "S3_BATCH_DEPS_REL_PATH": "<none>",
        "ARCHITRAVE_LAUNCHER": "direct",
        "APP_BIN": "/bin/sh",
        "APP_PARAMS": f"-c '{SCRIPT}'",
    }


def records(err):
    return [json.loads(line) for line in err.splitlines()]


def first_error(err):
    return next(line for line in records(err) if line["level"] == "error")


def uploaded(s3, batch, tmp_path):
    """Return what the job has on S3 by name, manifest checked against the bytes."""
    prefix = batch["S3_BUCKET"].rpartition("/")[2]
    backend = f"{prefix}/output/{batch['AWS_BATCH_JOB_ID']}/attempt-1/"
    directory = tmp_path / "downloaded"
    found = {
        str(path.relative_to(directory)): path.read_bytes()
        for path in s3.download("bucket", backend, directory)
    }
    if "manifest.json" in found:
        files = json.loads(found["manifest.json"])["files"]
        assert {file["path"] for file in files} == {n for n in found if n.startswith("node-")}
        for file in files:
            assert hashlib.sha256(found[file["path"]]).hexdigest() == file["sha256"]
    return found


COMPLETE = {
    "manifest.json",
    "run.json",
    "report.html",
    "node-0/one",
    "node-0/two",
    "node-0/time.log",
}

PASSING = {
    "500": {"status": 500, "code": "InternalError", "times": 2},
    "503": {"status": 503, "code": "ServiceUnavailable", "times": 2},
    "slow down": {"status": 503, "code": "SlowDown", "times": 2},
    "reset": {"reset": True, "times": 2},
    "truncated": {"truncate": True, "times": 2},
    "stall": {"stall": 32.0, "times": 1},
}


@pytest.mark.cell("s3.passing")
@pytest.mark.parametrize(
    ("method", "fault"),
    # An answer to PUT has no body that could be cut short.
    [
        *(("GET", fault) for fault in PASSING),
        *(("PUT", fault) for fault in PASSING if fault not in ("truncated", "stall")),
        slow("PUT", "stall"),
    ],
)
def test_passing(job, root, batch, failing, s3, tmp_path, method, fault):
    """What fails and then is good again costs time and nothing else."""
    failing.rule(method, KEY if method == "GET" else "/node-0/one", **PASSING[fault])
    code, out, err = job(timeout=110, **batch)
    assert code == 0 and out.startswith("ran\n"), err
    assert set(uploaded(s3, batch, tmp_path)) == COMPLETE
    assert failing.rules[0].times == 0
    assert not list((root / "opt").iterdir())


@pytest.mark.cell("s3.lasting")
@pytest.mark.parametrize("fault", ["500", "slow down", "reset", "truncated"])
def test_lasting(job, root, batch, failing, fault):
    """The same for ever: 69 with bucket and key, within the bound that the log gave before."""
    failing.rule("GET", KEY, **PASSING[fault] | {"times": float("inf")})
    start = time.monotonic()
    code, out, err = job(timeout=110, **batch, AWS_MAX_ATTEMPTS="3")
    seconds = time.monotonic() - start
    assert code == 69 and "ran" not in out, err
    error = first_error(err)
    assert f"{batch['S3_BUCKET']}/{KEY}" in error["message"] and error["hint"]
    started = next(line for line in records(err) if line["event"] == "fetch_started")
    assert seconds < started["gives_up_after_seconds"]
    assert not list((root / "opt").iterdir()) and not list(root.rglob(".architrave*"))


@pytest.mark.cell("s3.lasting")
@pytest.mark.slow
def test_stalls_for_ever(job, batch, failing):
    """No answer at all ends in 69 too."""
    failing.rule("GET", KEY, stall=1000.0)
    failing.rule("HEAD", KEY, stall=1000.0)
    code, out, err = job(timeout=110, **batch, AWS_MAX_ATTEMPTS="1")
    assert code == 69 and "ran" not in out, err
    assert KEY in first_error(err)["message"]


def refusal(status, code, *headers):
    return {"status": status, "code": code, "headers": headers}


@pytest.mark.cell("s3.refused")
@pytest.mark.parametrize(
    ("answer", "code", "hint"),
    [
        (refusal(404, "NoSuchBucket"), 66, "aws s3 ls"),
        (refusal(404, "NoSuchKey"), 66, "aws s3 ls"),
        (refusal(403, "AccessDenied"), 77, "policy"),
        (refusal(400, "ExpiredToken"), 77, "expired"),
        (refusal(400, "AuthorizationHeaderMalformed"), 77, "AWS_REGION"),
        (refusal(301, "PermanentRedirect"), 77, "AWS_REGION"),
    ],
)
def test_refused(job, batch, failing, answer, code, hint):
    """Each has its own code and its own next step, and is not tried for minutes."""
    failing.rule("HEAD", KEY, **answer)
    failing.rule("GET", KEY, **answer)
    found, out, err = job(timeout=30, **batch)
    assert found == code and "ran" not in out, err
    assert KEY in first_error(err)["message"]
    assert hint in first_error(err)["hint"]
    assert len([one for one in failing.requests if one.endswith(KEY)]) <= 5


@pytest.mark.cell("s3.refused")
def test_region_is_followed(job, batch, failing, s3, tmp_path):
    """A bucket in another region, whose answer names it, is found there."""
    region = (("x-amz-bucket-region", "us-east-1"),)
    for method in ("GET", "HEAD"):
        failing.rule(method, KEY, status=301, headers=region, times=1)
    code, _, err = job(**batch | {"AWS_REGION": "eu-west-1"})
    assert code == 0, err
    assert set(uploaded(s3, batch, tmp_path)) == COMPLETE


@pytest.mark.cell("s3.refused")
def test_no_credentials(job, batch):
    """None at all is distinguished from wrong ones."""
    none = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    code, _, err = job(**batch | none, AWS_EC2_METADATA_DISABLED="true")
    assert code == 77
    assert "AWS_ACCESS_KEY_ID" in first_error(err)["hint"]


@pytest.mark.cell("s3.checksum")
@pytest.mark.parametrize("times", [1, float("inf")])
def test_wrong_bytes(job, root, batch, failing, times):
    """Once: fetched again. Always: 65, and nothing of it is unpacked."""
    failing.rule("GET", KEY, change=True, times=times)
    code, out, err = job(**batch)
    assert code == (0 if times == 1 else 65), err
    assert ("ran" in out) == (times == 1)
    if times > 1:
        assert KEY in first_error(err)["what"] and first_error(err)["hint"]
    assert not list((root / "opt").iterdir())


@pytest.mark.cell("s3.no-right-to-write")
def test_no_right_to_write(job, batch, failing):
    """Found out by a probe before the run: 77."""
    failing.rule("PUT", r"node-0/\.write-probe", **refusal(403, "AccessDenied"))
    code, out, err = job(**batch)
    assert code == 77 and "ran" not in out
    assert "s3:PutObject" in first_error(err)["hint"]


@pytest.mark.cell("s3.upload-fails")
@pytest.mark.parametrize("own", [0, 5])
@pytest.mark.parametrize(
    "fault",
    [refusal(403, "AccessDenied"), {"reset": True}, refusal(500, "InternalError")],
    ids=["refused", "breaks off", "fails"],
)
def test_upload_fails(job, root, batch, failing, s3, tmp_path, own, fault):
    """One file fails: the others go up, it stays in place and is named, no manifest; 73 for 0."""
    failing.rule("PUT", "/node-0/one", **fault)
    code, _, err = job(timeout=110, **batch, CODE=str(own), AWS_MAX_ATTEMPTS="2")
    assert code == (own or 73), err
    assert set(uploaded(s3, batch, tmp_path)) == COMPLETE - {"manifest.json", "node-0/one"}
    assert (root / "tmp/output/one").read_text() == "1\n"
    named = [r for r in records(err) if r["event"] == "result_not_uploaded" and "/one" in r["what"]]
    assert named and named[0]["hint"]
    causes = [r for r in records(err) if r["level"] == "error" and r["event"] != "job_exited"]
    assert len(causes) == 1 and ("(one)" in causes[0]["message"]) == (own == 0)
    tries = [r for r in failing.requests if r.startswith("PUT") and r.endswith("/node-0/one")]
    # By a request of our own, then by boto3's.
    assert len(tries) == 1 + (1 if fault.get("status") == 403 else 2)


@pytest.mark.cell("s3.upload-fails")
def test_record_cannot_be_written(job, batch, failing, s3, tmp_path):
    """Results without a record: no manifest, and not 0."""
    failing.rule("PUT", "/run.json", **refusal(403, "AccessDenied"))
    code, _, err = job(**batch)
    assert code == 73, err
    assert "run.json" in first_error(err)["message"]
    assert set(uploaded(s3, batch, tmp_path)) == {"node-0/one", "node-0/two", "node-0/time.log"}


@pytest.mark.cell("s3.object-changes")
def test_object_changes_while_it_is_fetched(job, root, batch, failing, s3, keys, tmp_path):
    """Parts of two versions are never put together: the newer one is fetched anew."""
    prefix = batch["S3_BUCKET"].rpartition("/")[2]
    versions = []
    for number in (1, 2):
        content = tmp_path / f"version-{number}"
        content.mkdir()
        (content / "big").write_bytes(os.urandom(70 << 20))  # three parts
        (content / "version").write_text(f"{number}")
        versions.append(pack(content, tmp_path / f"{number}.7z", "", "-mx0"))
    s3.put_file("bucket", f"{prefix}/{KEY}", versions[0])
    replace = {"before": lambda: s3.put_file("bucket", f"{prefix}/{KEY}", versions[1]), "times": 1}
    failing.rule("GET", KEY, times=1)
    failing.rule("GET", KEY, **replace)
    env = batch | {"APP_PARAMS": f"-c 'cat {root}/opt/version'"}
    code, out, err = job(timeout=110, **env)
    assert code == 0, err
    assert out.startswith("2")


def large(batch, s3, tmp_path):
    """Put an archive on S3 that comes in several parts; return its content's checksum."""
    content = tmp_path / "large"
    content.mkdir()
    data = os.urandom(40 << 20)
    (content / "big").write_bytes(data)
    prefix = batch["S3_BUCKET"].rpartition("/")[2]
    s3.put_file("bucket", f"{prefix}/{KEY}", pack(content, tmp_path / "large.7z", "", "-mx0"))
    return hashlib.sha256(data).hexdigest()


def events(err):
    return [line["event"] for line in records(err)]


@pytest.mark.cell("s3.passing")
@pytest.mark.parametrize("fault", [None, "500", "reset", "truncated"])
def test_a_large_object_comes_in_parts(job, root, batch, failing, s3, tmp_path, fault):
    """On the fast path, or where that gives up by boto3's way: no byte is wrong."""
    wanted = large(batch, s3, tmp_path)
    if fault:
        failing.rule("GET", KEY, **PASSING[fault] | {"times": 5})
    env = batch | {"APP_PARAMS": f"-c 'sha256sum {root}/opt/big'"}
    code, out, err = job(timeout=110, **env)
    assert code == 0, err
    assert out.startswith(wanted)
    if fault is None:
        assert "fetch_fallback" not in events(err)
        assert len([one for one in failing.requests if one.startswith("GET")]) > 2


MANY = "echo ran; cd $TMP_OUTPUT_DIR; for i in $(seq 100); do echo $i >many-$i; done"


@pytest.mark.cell("s3.passing", "s3.upload-fails")
@pytest.mark.parametrize("fault", [None, "reset", "503", "403"])
def test_many_small_results(job, batch, failing, s3, tmp_path, fault):
    """They go up many at once; one that fails is tried again and then named, the others arrive."""
    if fault == "403":
        failing.rule("PUT", "/node-0/many-7", **refusal(403, "AccessDenied"))
    elif fault:
        failing.rule("PUT", "/node-0/many-.", **PASSING[fault])
    code, _, err = job(timeout=110, **batch | {"APP_PARAMS": f"-c '{MANY}'"})
    assert code == (73 if fault == "403" else 0), err
    names = {f"node-0/many-{i}" for i in range(1, 101)} | {
        "node-0/time.log",
        "run.json",
        "report.html",
    }
    missing = {"node-0/many-7"} if fault == "403" else set()
    found = uploaded(s3, batch, tmp_path)
    assert found.keys() - {"manifest.json"} == names - missing
    assert ("manifest.json" in found) == (fault != "403")
    if fault == "403":
        assert "many-7" in first_error(err)["message"]


def test_over_tls(job, root, batch, s3, tmp_path):
    """Over https boto3 sends another form than over http: everything arrives all the same."""
    authority = trustme.CA()
    trusted, pem = tmp_path / "authority.pem", tmp_path / "server.pem"
    authority.cert_pem.write_to_path(trusted)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    wanted = large(batch, s3, tmp_path)
    script = f"sha256sum {root}/opt/big; {MANY}; head -c 40000000 /dev/zero >big"
    with FailingS3(s3.endpoint, certificate=str(pem)) as server:
        env = {"AWS_ENDPOINT_URL_S3": server.endpoint, "APP_PARAMS": f"-c '{script}'"}
        untrusted, _, _ = job(**batch | env | {"AWS_MAX_ATTEMPTS": "1"})
        env["AWS_CA_BUNDLE"] = str(trusted)
        code, out, err = job(timeout=110, **batch | env)
    assert untrusted == 69
    assert code == 0, err
    assert out.startswith(wanted)
    assert not {"fetch_fallback", "upload_fallback"} & set(events(err))
    assert len(uploaded(s3, batch, tmp_path)) == 105


@pytest.mark.cell("s3.changes-while-sent")
@pytest.mark.parametrize("times", [1, slow(float("inf"))])
@pytest.mark.parametrize("size", [1, slow(5_000_000), 70_000_000])
def test_a_result_changes_while_it_is_sent(job, root, batch, failing, s3, tmp_path, size, times):
    """It is sent again; one that always changes is named, and size and digest are S3's."""
    path = root / "tmp/output/one"

    def grow():
        with open(path, "ab") as file:
            file.write(b"more")

    failing.rule("PUT", "node-0/one", times=times, before=grow)
    script = f"head -c {size} /dev/zero >$TMP_OUTPUT_DIR/one"
    code, _, err = job(**batch | {"APP_PARAMS": f"-c '{script}'"})
    assert code == 0, err
    found = uploaded(s3, batch, tmp_path)
    files = {file["path"]: file for file in json.loads(found["manifest.json"])["files"]}
    one = files["node-0/one"]
    assert one["size"] == len(found["node-0/one"])
    named = [line for line in records(err) if line["event"] == "file_not_final"]
    if times == 1:
        assert found["node-0/one"] == path.read_bytes() and "final" not in one and not named
        return
    assert one["final"] is False and [line["file"] for line in named] == ["one"]
    listed = json.loads(found["run.json"])["nodes"][0]["files"]
    assert [f["sha256"] for f in listed if not f.get("final", True)] == [one["sha256"]]
