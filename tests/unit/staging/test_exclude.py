"""Patterns of results that are not uploaded, as people write them."""

import pytest

from agent.staging import results
from agent.staging.exclude import Exclude

FILES = ["a.tmp", "cache", "keep", "run/a.tmp", "run/cache/x", "scratch/deep/y", "tmp/one"]


@pytest.mark.parametrize(
    ("pattern", "excluded"),
    [
        ("*.tmp", ["a.tmp", "run/a.tmp"]),
        ("scratch/", ["scratch/deep/y"]),
        ("scratch", ["scratch/deep/y"]),
        ("./scratch/", ["scratch/deep/y"]),
        ("./tmp/*", ["tmp/one"]),
        ("tmp/*", ["tmp/one"]),
        ("/tmp/*", ["tmp/one"]),
        ("cache", ["cache", "run/cache/x"]),
        ("cache/", ["run/cache/x"]),
        ("run/cache", ["run/cache/x"]),
        ("run/*", ["run/a.tmp", "run/cache/x"]),
        ("run*x", ["run/cache/x"]),
        ("*", FILES),
        ("deep/y", []),
        ("kee", []),
    ],
)
def test_pattern(pattern, excluded):
    exclude = Exclude([pattern])
    assert [name for name in FILES if exclude(name)] == excluded
    assert exclude.unmatched() == ([] if excluded else [pattern])


def test_each_pattern_that_matches_nothing_is_known():
    """Also one that stands behind another one that matches the same files."""
    exclude = Exclude(["*.tmp", "a.*", "nothing"])
    assert [name for name in FILES if exclude(name)] == ["a.tmp", "run/a.tmp"]
    assert exclude.unmatched() == ["nothing"]


def test_core_dumps_are_results_only_if_asked_for(tmp_path):
    """By name and content: a program may call a file of its own `core`."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x04\x00" + bytes(46)
    for name, content in (("core.17", header), ("x.core", header), ("core", b"apple")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "program").write_bytes(header)

    def find(**options):
        left_out = results.LeftOut()
        found = results.results(str(tmp_path), {}, [], [], left_out, lambda: None, **options)
        return found, sorted(left_out.cores)

    assert find() == (["core", "program"], ["core.17", "x.core"])
    assert find(cores=True) == (["core", "core.17", "program", "x.core"], [])


def test_a_file_that_cannot_be_read_is_still_a_result(tmp_path, monkeypatch):
    """Its upload fails, and names it."""

    def refuse(*arguments, **options):
        raise PermissionError

    (tmp_path / "core.1").touch()
    monkeypatch.setattr("builtins.open", refuse)
    found = results.results(str(tmp_path), {}, [], [], results.LeftOut(), lambda: None)
    assert found == ["core.1"]
