"""Several nodes with one output directory: one claims it, and only its claim is its to remove."""

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
