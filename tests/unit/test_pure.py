"""Hostfile, commands, checksums, results, records: what needs no other program."""

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import zlib
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import AgentError
from agent.core.model import Node, Outcome, Span, Topology
from agent.engine.log import Log
from agent.launch import mpirun
from agent.launch.output import time_lines
from agent.multinode import hostfile
from agent.report import run_json
from agent.staging import checksums, packages, results

NODES = st.builds(
    Node,
    index=st.integers(0, 1000),
    address=st.ip_addresses(v=4).map(str),
    slots=st.integers(1, 512),
)


@given(st.lists(NODES, max_size=20))
@pytest.mark.cell("chance.parsers")
def test_hostfile_comes_back(nodes):
    assert hostfile.parse(hostfile.write(nodes)) == [(n.address, n.slots) for n in nodes]
    rows = hostfile.parse(hostfile.deduped(nodes))
    assert sum(slots for _, slots in rows) == sum(n.slots for n in nodes)
    assert len({address for address, _ in rows}) == len(rows)


def test_hostfile_refuses_another_form():
    with pytest.raises(ValueError, match="no hostfile line"):
        hostfile.parse("10.0.0.1 slots=two")


BASE = mpirun.MpiRun(4, slots=2)
ACROSS = mpirun.MpiRun(
    4,
    slots=2,
    hostfile="/h",
    hosts=200,
    interface="eth0",
    ssh=("/usr/bin/ssh", "-F", "/c"),
    as_root=True,
)


def test_mpirun_on_one_node():
    words = mpirun.mpirun(BASE, ["/opt/app", "a b"])
    quiet = ["--mca", "ess_base_forward_signals", "none"]
    assert words == ["mpirun", *quiet, "--host", "localhost:2", "-np", "2", "/opt/app", "a b"]


def test_mpirun_across_nodes():
    """Root is allowed only as root; ssh has its own configuration; 200 hosts don't stall."""
    words = mpirun.mpirun(ACROSS, ["/opt/app"])
    line = " ".join(words)
    assert "--allow-run-as-root" in words and words[-1] == "/opt/app"
    assert "/usr/bin/ssh -F /c" in words
    assert "plm_rsh_no_tree_spawn 1" in line and "plm_rsh_num_concurrent 200" in line
    assert "orte_leave_session_attached 1" in line
    assert "btl_tcp_if_include eth0" in line and "oob_tcp_if_include eth0" in line
    assert "--allow-run-as-root" not in mpirun.mpirun(BASE, ["x"])


def test_open_mpi_5_has_other_names():
    five = mpirun.mpirun(mpirun.MpiRun(**vars(ACROSS) | {"major": 5}), ["/opt/app"])
    line = " ".join(five)
    assert "--prtemca plm_ssh_agent" in line and "plm_rsh" not in line
    assert "--prtemca prte_if_include eth0" in line
    assert "--leave-session-attached" in five


@pytest.mark.parametrize(
    ("text", "major"), [("mpirun (Open MPI) 4.1.4\n", 4), ("mpirun (Open MPI) 5.0.7\n", 5)]
)
def test_mpi_version(text, major):
    assert mpirun.mpi_version(text) == major


@pytest.mark.parametrize("text", ["", "HYDRA build details:\n", "mpirun (Open MPI) 1.4.3\n"])
def test_other_mpi_is_refused(text):
    with pytest.raises(AgentError) as caught:
        mpirun.mpi_version(text)
    assert caught.value.code == 78


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0m0.000s"), (1.2344, "0m1.234s"), (59.9996, "1m0.000s"), (3725.5, "62m5.500s")],
)
def test_time_lines(seconds, text):
    lines = time_lines(seconds, 0, 0).decode().splitlines()
    assert lines == ["", f"real\t{text}", "user\t0m0.000s", "sys\t0m0.000s"]


def test_time_lines_are_bash_s():
    """The lines have the form of bash's own `time`."""
    done = subprocess.run(["bash", "-c", "time true"], capture_output=True, text=True, check=True)
    shape = [line.split("\t")[0] for line in done.stderr.splitlines()]
    assert [line.split("\t")[0] for line in time_lines(1, 2, 3).decode().splitlines()] == shape


@given(st.binary(max_size=5000), st.integers(1, 700), st.booleans())
def test_checksums(content, part_size, plain):
    """Whole and part-wise digests are what S3 says; an ETag counts if there is no other."""
    parts = [content[i : i + part_size] for i in range(0, len(content), part_size)] or [b""]
    crcs = b"".join(zlib.crc32(part).to_bytes(4, "big") for part in parts)
    md5s = b"".join(hashlib.md5(part).digest() for part in parts)
    head = {
        "ETag": f'"{hashlib.md5(md5s).hexdigest()}-{len(parts)}"',
        "ChecksumCRC32": f"{encoded(zlib.crc32(crcs).to_bytes(4, 'big'))}-{len(parts)}",
        "ChecksumSHA256": encoded(hashlib.sha256(content).digest()),
    }
    if plain:
        head = {"ETag": head["ETag"]}
    path = f"/tmp/architrave-test-{os.getpid()}"
    with open(path, "wb") as file:
        file.write(content)
    try:
        wanted = checksums.expected(head)
        found = checksums.digests(path, {n: p for n, (_, p) in wanted.items()}, part_size)
    finally:
        os.unlink(path)
    assert set(wanted) == ({"ETag"} if plain else head.keys() - {"ETag"})
    assert {name: found[name] for name in wanted} == {
        n: digest for n, (digest, _) in wanted.items()
    }
    assert found["sha256"] == hashlib.sha256(content).digest()


def encoded(digest):
    return base64.b64encode(digest).decode()


def test_etag_of_an_encrypted_object_is_no_checksum():
    head = {"ETag": '"0123456789abcdef0123456789abcdef"', "ServerSideEncryption": "aws:kms"}
    assert checksums.expected(head) == {}
    assert checksums.expected({"ETag": '"opaque"'}) == {}


def test_results_are_what_is_new_or_changed(tmp_path):
    """In a directory that held files before, only the application's own count.

    A link to a directory elsewhere is named, one to a directory of the results is no loss.
    """
    breaths = []
    breathe = partial(breaths.append, 1)
    for name in ("old", "changed", "batch/x", "keep.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    (tmp_path / "there").symlink_to("/usr")
    before = results.snapshot(str(tmp_path), str(tmp_path), [], breathe)
    (tmp_path / "changed").write_text("22")
    (tmp_path / "new").write_text("3")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/deep").write_text("4")
    (tmp_path / "sub/no.tmp").write_text("5")
    (tmp_path / "batch/y").write_text("6")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latest").symlink_to("sub")
    for name in ("away", "away.tmp"):
        (tmp_path / name).symlink_to("/usr")
    own, left_out = [str(tmp_path / "batch")], results.LeftOut()
    found = results.results(str(tmp_path), before, own, ["*.tmp"], left_out, breathe)
    assert found == ["changed", "new", "sub/deep"]
    assert left_out == results.LeftOut([], [str(tmp_path / "away")])
    assert len(breaths) == 4 + 8


def test_a_directory_for_results_is_taken_whole(tmp_path):
    """What an earlier attempt left is a result; what the archive brought, or an agent wrote, isn't.

    Unless the application changes it.
    """
    names = ["first", "opt/data", "opt/changed", "opt/sub/deep"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    (tmp_path / "run.json").write_text('{"schema": "architrave-run/1",\n"job": "x"}')
    (tmp_path / "report.html").write_text("<title>the program's own</title>")
    unpacked = [f"{tmp_path}/opt/{name}" for name in ("data", "changed", "sub")]
    before = results.snapshot(str(tmp_path), "/tmp", unpacked, lambda: None)
    (tmp_path / "opt/changed").write_text("22")
    found = results.results(str(tmp_path), before, [], [], results.LeftOut(), lambda: None)
    assert found == ["first", "opt/changed", "report.html"]


def test_list_of_packages():
    text = "# ours\nlibx_1_amd64.deb\n  /old/place/liby_2_all.deb  # why\n\nnotes.txt\n"
    assert packages.read_list(text) == ["libx_1_amd64.deb", "liby_2_all.deb"]


def test_log_hides_secrets_and_never_raises():
    lines = []
    log = Log(lines.append, secrets=("geheim",))
    log.context = {"job": "j"}
    log.info("before it is open", value="geheim!")
    log.open()
    log.info("with geheim", words=["a geheim b"], other=object(), nothing=None)
    records = [json.loads(line) for line in lines]
    assert [r["event"] for r in records] == ["before it is open", "with ***"]
    assert b"geheim" not in b"".join(lines)
    assert records[1]["words"] == ["a *** b"] and "nothing" not in records[1]


def test_starting_loads_no_asyncio():
    """Structlog's import of asyncio, and with it of ssl, stays undone."""
    code = (
        "import sys; from agent.engine.log import Log; "
        "l = Log(lambda b: None); l.open(); l.info('x');"
        "print('ssl' in sys.modules, 'asyncio.events' in sys.modules)"
    )
    blocked = "import sys; sys.modules['rich'] = None; " + code
    done = subprocess.run(
        [sys.executable, "-c", blocked], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


def test_record_and_manifest():
    topology = Topology("j", 1, 0, 2)
    spans = [Span("run", 1.0, 2.5), Span("upload", 2.5)]
    records = [
        run_json.node_record(Node(i, f"10.0.0.{i}", 2), spans, files=[], failed=[]) for i in (1, 0)
    ]
    run = json.loads(run_json.run_json(topology, Outcome(7), ["/a", "b c"], records, {"real": 1.5}))
    assert run["schema"].startswith("architrave-run/")
    assert (run["exit"]["code"], run["exit"]["spoke"]) == (7, "application")
    assert [node["index"] for node in run["nodes"]] == [0, 1]
    assert run["nodes"][0]["phases"][0] == {"phase": "run", "start": 1.0, "end": 2.5}
    file = {"name": "a/b", "size": 3, "sha256": "00"}
    manifest = json.loads(run_json.manifest_json(topology, {1: [file], 0: []}))
    assert manifest["files"] == [{"path": "node-1/a/b", "size": 3, "sha256": "00"}]


def test_error_text():
    error = AgentError("fetch s3://b/k", "it is gone", code=66, hint="look")
    assert str(error) == "cannot fetch s3://b/k: it is gone"
    assert AgentError.from_json(json.loads(json.dumps(error.to_json()))).code == 66
    assert io.StringIO(str(error)).read()
