"""The doctor's findings for files, lists of libraries, hanging checks and many nodes."""

import itertools
import re
import struct
import threading
import time

import pytest

from agent.core import variables
from agent.core.errors import AgentError
from agent.core.model import Topology
from agent.doctor.examine import Report
from agent.doctor.finding import FAIL, PASS, WARN, Check, Finding, first_code
from agent.doctor.meeting import judge
from agent.doctor.pairs import ports
from agent.launch import elf

LATE = ("look", 71, "df -h")


def program(path, *, machine=62, wide=True, order="<", loader=b"/lib/ld.so\0"):
    """Write an ELF header with one program header: the loader's name."""
    start = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2]) + bytes(10)
    head = 64 if wide else 52
    size = 56 if wide else 32
    form = "HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"
    rest = struct.pack(order + form, 2, machine, 1, 0, head, 0, 0, head, size, 1, 0, 0, 0)
    where = head + size
    if wide:
        entry = struct.pack(order + "IIQQQQQQ", 3, 4, where, 0, 0, len(loader), 0, 1)
    else:
        entry = struct.pack(order + "IIIIIIII", 3, where, 0, 0, len(loader), 0, 4, 1)
    path.write_bytes(start + rest + entry + loader)
    return str(path)


@pytest.mark.parametrize(("wide", "order"), [*itertools.product([True, False], "<>")])
def test_elf(tmp_path, wide, order):
    """Both widths and both byte orders give machine and loader."""
    found = elf.elf(program(tmp_path / "app", machine=183, wide=wide, order=order))
    assert (found.machine_name, found.loader) == ("aarch64", "/lib/ld.so")


@pytest.mark.parametrize("length", [5, 20, 63, 80, 119])
def test_a_file_that_is_cut_short(tmp_path, length):
    """It is reported wherever it is truncated."""
    path = program(tmp_path / "app")
    (tmp_path / "app").write_bytes((tmp_path / "app").read_bytes()[:length])
    with pytest.raises(AgentError) as raised:
        elf.elf(path)
    assert raised.value.code == 126


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"#!/bin/sh\n", ["/bin/sh"]),
        (b"#! /usr/bin/env  python3 -u\n", ["/usr/bin/env", "python3 -u"]),
        (b"#!/bin/sh\r\n", ["/bin/sh\r"]),
        (b"#!\n", []),
        (b"\x00\x01", []),
    ],
)
def test_interpreter(tmp_path, line, expected):
    """As in the kernel: a name, and the rest as one argument."""
    (tmp_path / "app").write_bytes(line)
    assert elf.interpreter(str(tmp_path / "app")) == expected


def test_lists_of_libraries():
    """Missing ones are named once, from glibc's messages and musl's; so are versions."""
    glibc = (
        "\tliba.so.1 => not found\n\tlibc.so.6 => /lib/libc.so.6 (0x1)\n\tliba.so.1 => not found"
    )
    musl = "Error loading shared library libb.so: No such file or directory (needed by ./app)\n"
    old = "./app: /lib/libc.so.6: version `GLIBC_2.38' not found (required by ./app)\n"
    assert elf.missing(glibc + "\n" + musl + old) == ["liba.so.1", "libb.so"]
    assert elf.too_new(old + old) == ["GLIBC_2.38"]
    assert elf.too_new(glibc) == []


def test_a_check_that_hangs_is_left():
    """The walk continues after the limit, with a finding for the hanging check."""
    release = threading.Event()
    check = Check("slow", lambda subject: release.wait() and [], 0.1, LATE)
    start = time.monotonic()
    assert check.on(None) is None
    assert time.monotonic() - start < 5
    release.set()
    hanging = check.hanging
    assert (hanging.name, hanging.verdict, hanging.code, hanging.hint) == (
        "slow",
        FAIL,
        71,
        "df -h",
    )


def test_what_a_check_raises_is_a_fail():
    """The agent's own errors keep their code; others are bugs."""

    def fails(error):
        raise error

    (known,) = Check("x", fails, 5, LATE).on(AgentError("do it", "no", code=77, hint="try"))
    assert (known.verdict, known.code, known.hint, known.name) == (FAIL, 77, "try", "x")
    (bug,) = Check("x", fails, 5, LATE).on(ZeroDivisionError("x"))
    assert (bug.verdict, bug.code) == (FAIL, 70)


def test_the_code_is_the_first_fails():
    fail = [Finding(FAIL, "a", code=66), Finding(FAIL, "b", code=71)]
    assert first_code([Finding(PASS, ""), Finding(WARN, "", code=1), *fail]) == 66
    assert first_code([Finding(WARN, "", "x")]) == 0


def test_a_report_of_strange_text(capfdbinary):
    """Names that are not UTF-8, long names and secrets: lines of at most 100 columns, no secret."""
    report = Report({"PRIVATE_PASSWD": "secret one"}, as_json=False)
    report.add([Finding(FAIL, "secret one \udcff " + 300 * "x", "y" * 100, 65, "archive")])
    assert report.end() == 65
    lines = capfdbinary.readouterr().out.splitlines()
    assert all(len(line) <= 106 for line in lines)  # an escaped byte is six columns
    assert lines[0].split()[:4] == [b"FAIL", b"archive", b"***", b"\\udcff"] and len(lines) > 4
    assert numbers(lines[-1].decode()) == [0, 0, 1]


def numbers(text):
    """Return the numbers that a finding names."""
    return [int(number) for number in re.findall(r"\d+", text)]


def nodes(count):
    """Return the records of so many healthy nodes."""
    return {
        index: {
            "version": "1",
            "machine": "x86_64",
            "mpirun": "4.1.4",
            "findings": [],
            "pairs": [
                {"to": other, "tcp": "", "ssh": "", "clock": 0.5}
                for other in range(count)
                if other != index
            ],
        }
        for index in range(count)
    }


def judged(records, verdict, count=3):
    found = judge(Topology("j", 1, 0, count), records)
    return {one.name: one for one in found if one.verdict == verdict}


def test_healthy_nodes():
    assert judged(nodes(64), FAIL, 64) == judged(nodes(64), WARN, 64) == {}
    assert numbers(judged(nodes(64), PASS, 64)["pairs"].what) == [4032, 4032]


def test_a_pair_that_does_not_reach():
    records = nodes(3)
    records[1]["pairs"][1]["tcp"] = "port 20000: timed out"
    pairs = judged(records, FAIL)["pairs"]
    assert re.search(r"worker 1\b.*worker 2\b.*tcp: port 20000: timed out", pairs.what)
    assert pairs.code == 75 and pairs.hint
    assert numbers(judged(records, WARN)["pairs"].what) == [5, 6]


def test_a_node_that_has_not_reported():
    records = nodes(3)
    records[2]["pairs"] = []
    found = judged(records, FAIL)["pairs"].what
    assert "worker 2" in found and "worker 1" not in found


@pytest.mark.parametrize("what", ["version", "machine", "mpirun"])
def test_nodes_that_differ(what):
    records = nodes(3)
    records[2][what] = ""
    failed = judged(records, FAIL)[what]
    assert failed.code == 78 and "worker 2" in failed.what


def test_clocks_that_differ():
    records = nodes(3)
    records[1]["pairs"][0]["clock"] = -30.0
    found = judged(records, WARN)["clocks"].what
    assert all(value in found for value in ("worker 1", "main", "30 s")), found


def test_what_a_worker_has_found():
    records = nodes(3)
    records[2]["findings"] = [Finding(FAIL, "/tmp: full", "df -h", 71, "disk").to_json()]
    failed = judged(records, FAIL)["worker 2"]
    assert failed.code == 71 and "disk" in failed.what and "/tmp: full" in failed.what


def test_doors():
    """The ports are the attempt's own, and below the ephemeral ports."""
    assert ports("j", 1) == ports("j", 1) != ports("j", 2)
    assert all(20000 <= port < 32000 for port in ports("j", 1))


def test_unknown_names():
    strange = f"ARCHITRAVE_{40 * 'Q'}"
    env = ["ARCHITRAVE_SLOTS", "ARCHITRAVE_SLOT", strange, "PATH"]
    assert variables.unknown(env) == {strange: "", "ARCHITRAVE_SLOT": "ARCHITRAVE_SLOTS"}
