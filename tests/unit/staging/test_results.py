"""Which files of a directory are results."""

import os
from functools import partial

from agent.staging import results


def test_results_are_what_is_new_or_changed(tmp_path):
    """In a directory that held files before, only the application's own count.

    A link to a directory elsewhere is named, one to a directory of the results is not a loss.
    """
    breaths = []
    poll_events = partial(breaths.append, 1)
    for name in ("old", "changed", "batch/x", "keep.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    (tmp_path / "there").symlink_to("/usr")
    before = results.snapshot(str(tmp_path), str(tmp_path), [], poll_events)
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
    found = results.results(str(tmp_path), before, own, ["*.tmp"], left_out, poll_events)
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
