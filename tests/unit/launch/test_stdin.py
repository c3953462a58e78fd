"""The file that the application reads as standard input."""

import os

import pytest

from agent.core.errors import BAD_SETTINGS, AgentError
from agent.launch.stdin import stdin_file


def read(path, directory):
    with open(stdin_file(path, directory), "rb") as file:
        return file.read()


def test_relative_to_the_working_directory(tmp_path):
    (tmp_path / "in.txt").write_text("given")
    assert read("in.txt", str(tmp_path)) == b"given"
    assert read(str(tmp_path / "in.txt"), "/") == b"given"


def test_none_is_empty(tmp_path):
    assert read("", str(tmp_path)) == b""


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", ".", "pipe"):
        with pytest.raises(AgentError) as caught:
            stdin_file(name, str(tmp_path))
        assert caught.value.code == BAD_SETTINGS and str(tmp_path / name) in str(caught.value)
