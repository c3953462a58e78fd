"""Several nodes with one output directory: one claims it, and only its claim is its to remove."""

from agent.multinode.output_claim import claim, release


def test_the_first_has_the_directory_until_it_leaves(tmp_path):
    """A node that came later removes nothing, nor does a node of another attempt."""
    place = str(tmp_path)
    assert [claim(place, "a", index) for index in (2, 0, 1)] == [2, 2, 2]
    release(place, "a", 0)
    release(place, "b", 2)
    assert claim(place, "a", 1) == 2
    release(place, "a", 2)
    assert claim(place, "a", 1) == 1
    release(place, "a", 1)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_claims(tmp_path):
    """Nothing to remove is nothing to tell, and where nothing can be written nothing is shared."""
    gone = str(tmp_path / "gone")
    assert claim(gone, "a", 1) == 1
    release(gone, "a", 1)
