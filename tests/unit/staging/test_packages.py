"""Lists of packages."""

from agent.staging import packages


def test_list_of_packages():
    text = "# ours\nlibx_1_amd64.deb\n  /old/place/liby_2_all.deb  # why\n\nnotes.txt\n"
    assert packages.read_list(text) == ["libx_1_amd64.deb", "liby_2_all.deb"]
