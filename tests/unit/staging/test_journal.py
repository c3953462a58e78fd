"""Which files of private.7z are moved into /opt, and which are removed at the end."""

import errno
import os
import shutil

import pytest

from agent.core.errors import AgentError
from agent.job.directories import RuntimeDirectory
from agent.staging import archive
from agent.staging.journal import JOURNAL


@pytest.fixture
def node(tmp_path):
    """Return an image's /opt, what was unpacked, and the agent's directory."""
    image = {"opt/app/model": "image", "opt/late": "image", "opt/tool": "image"}
    for name, text in image.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "fresh").mkdir()
    directory = RuntimeDirectory(str(tmp_path / "run/agent"))
    directory.take()
    return tmp_path / "opt", tmp_path / "fresh", directory


def move(node):
    opt, fresh, directory = node
    archive.move_into(str(fresh), str(opt), f"{directory.path}/{JOURNAL}")


def tree(directory):
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_what_was_unpacked_is_removed_and_nothing_else(node):
    opt, fresh, directory = node
    (fresh / "sub").mkdir()
    (fresh / "sub/new").write_text("private")
    (fresh / "late").write_text("private")
    move(node)
    assert tree(opt)["sub/new"] == tree(opt)["late"] == "private"
    directory.remove([])
    assert tree(opt) == {"app/model": "image", "tool": "image"}


@pytest.mark.cell("archives.name-taken")
@pytest.mark.parametrize("name", ["app", "tool/x", "tool/"])
def test_a_name_that_is_taken(node, name):
    """A file that replaces a directory, or a directory a file: the image stays as it was."""
    opt, fresh, directory = node
    before = tree(opt)
    (fresh / name).parent.mkdir(exist_ok=True)
    if name.endswith("/"):
        (fresh / name).mkdir()
    else:
        (fresh / name).write_text("private")
    (fresh / "late").write_text("private")
    with pytest.raises(AgentError) as caught:
        move(node)
    assert caught.value.code == 65 and str(opt / name.partition("/")[0]) in caught.value.cause
    directory.remove([])
    assert tree(opt) == before


def test_a_directory_that_replaced_a_file(node):
    """What the job has put where a file of ours was isn't removed with all that is in it."""
    opt, fresh, directory = node
    (fresh / "data").write_text("private")
    move(node)
    (opt / "data").unlink()
    (opt / "data").mkdir()
    (opt / "data/result").write_text("kept")
    directory.remove([])
    assert tree(opt)["data/result"] == "kept"


def test_a_volume_below_the_directory(node, monkeypatch):
    """What can't be renamed into another file system is copied there; a failure costs no file."""
    opt, fresh, directory = node
    (fresh / "late").write_text("private")
    replace = os.replace

    def across(source, target):
        if str(source).startswith(str(fresh)):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", across)
    move(node)
    assert tree(opt)["late"] == "private"
    (fresh / "tool").write_text("private")
    monkeypatch.setattr(shutil, "copy2", lambda *_, **__: os.open("/nowhere/x", os.O_RDONLY))
    with pytest.raises(AgentError):
        move(node)
    directory.remove([])
    assert tree(opt)["tool"] == "image"
