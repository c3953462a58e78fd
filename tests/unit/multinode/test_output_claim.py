"""Several nodes with one output directory: one claims it, and only its claim is its to remove."""

import os

from agent.multinode.output_claim import claim, release


def test_the_first_has_the_directory_until_it_leaves(tmp_path):
    """A node that claims later removes nothing, nor does a node of another attempt."""
    directory = str(tmp_path)
    assert [claim(directory, "a", index) for index in (2, 0, 1)] == [2, 2, 2]
    release(directory, "a", 0)
    release(directory, "b", 2)
    assert claim(directory, "a", 1) == 2
    release(directory, "a", 2)
    assert claim(directory, "a", 1) == 1
    release(directory, "a", 1)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_claims(tmp_path):
    """Nothing to remove is not an error, and a directory that can't be written isn't shared."""
    gone = str(tmp_path / "gone")
    assert claim(gone, "a", 1) == 1
    release(gone, "a", 1)


def test_a_claim_is_whole_from_the_first(tmp_path, monkeypatch):
    """A helper that is killed right after it has made the file has named its owner."""

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.open", killed)
    assert claim(str(tmp_path), "a", 1) == 1
    assert claim(str(tmp_path), "a", 2) == 1
    release(str(tmp_path), "a", 1)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_symbolic_links(tmp_path, monkeypatch):
    """A claim is an ordinary file there."""

    def refuse(*arguments, **options):
        raise PermissionError

    monkeypatch.setattr(os, "symlink", refuse)
    assert [claim(str(tmp_path), "a", index) for index in (2, 0)] == [2, 2]
    (made,) = tmp_path.iterdir()
    assert made.is_file() and not made.is_symlink()
    release(str(tmp_path), "a", 2)
    assert not made.exists()
