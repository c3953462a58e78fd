"""Small files that other processes read: whole or not at all."""

import os
import stat
import threading

import pytest

from agent.awslambda.scratch import Scratch
from agent.engine.files import replace, replace_or_write


def test_a_reader_never_sees_half(tmp_path):
    """While one thread writes another one reads the old content or the new."""
    path = tmp_path / "main.json"
    contents = [b"a" * 100_000, b"b" * 50_000]
    replace(str(path), contents[0])
    done = threading.Event()

    def write():
        for count in range(500):
            replace(str(path), contents[count % 2])
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = set()
    while not done.is_set():
        seen.add(path.read_bytes())
    thread.join()
    assert seen <= set(contents)
    assert os.listdir(tmp_path) == ["main.json"]


def test_what_fails_leaves_nothing(tmp_path):
    """A name that is taken by a directory is an error, and no temporary file stays."""
    (tmp_path / "name").mkdir()
    with pytest.raises(OSError):
        replace(str(tmp_path / "name"), b"text")
    assert os.listdir(tmp_path) == ["name"]


def test_what_is_no_regular_file_is_written_in_place(tmp_path):
    """A pipe is written to; a file keeps no hidden neighbour."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    replace_or_write(str(pipe), b"7\n")
    assert os.read(reader, 10) == b"7\n"
    os.close(reader)
    assert stat.S_ISFIFO(os.stat(pipe).st_mode)
    replace_or_write(str(tmp_path / "code"), b"7\n")
    assert sorted(os.listdir(tmp_path)) == ["code", "pipe"]


@pytest.mark.parametrize("note", [b"", b'["a', b"{}", b"[1]", b"\xff"])
def test_a_note_that_cannot_be_read_is_not_trusted(tmp_path, note):
    """A torn note must not make one call's files visible to the next."""
    (tmp_path / "secret-of-a-call").write_text("x")
    (tmp_path / ".kept").write_bytes(note)
    assert Scratch(str(tmp_path), str(tmp_path / ".kept")).empty() == []
    assert os.listdir(tmp_path) == [".kept"]


def test_the_first_content_stays(tmp_path):
    """What was there first is known to the next agent too, also when a call has emptied all."""
    (tmp_path / "image").write_text("x")
    note = str(tmp_path / ".kept")
    Scratch(str(tmp_path), note)
    (tmp_path / "later").write_text("x")
    assert Scratch(str(tmp_path), note).empty() == []
    assert sorted(os.listdir(tmp_path)) == [".kept", "image"]
