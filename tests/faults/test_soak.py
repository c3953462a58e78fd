"""The soak finds what it is there to find; `tests/faults/soak` runs it for long."""

from dataclasses import replace

import pytest

from tests.faults import soaking
from tests.faults.soaking import Draw

QUIET = Draw(
    seed=1,
    nodes=2,
    main=1,
    contained=False,
    launcher="each",
    application="exit 3",
    code=3,
    fault="none",
    node=0,
    phase="run",
    moment=0.0,
)


def test_a_seed_draws_the_same_again():
    drawn = [soaking.draw(seed, containers=True) for seed in range(2000)]
    assert drawn == [soaking.draw(seed, containers=True) for seed in range(2000)]
    assert {one.fault for one in drawn} == soaking.FAULTS.keys()
    assert {one.phase for one in drawn} == set(soaking.TOGETHER)
    # A job that never ends by itself has a fault that ends it.
    assert all(soaking.FAULTS[one.fault].ends for one in drawn if one.code is None)


@pytest.mark.cell("chance.soak")
@pytest.mark.parametrize("fault", ["none", "agent killed", "SIGTERM to all"])
def test_a_run_that_is_as_it_must_be(private, tmp_path, fault):
    drawn = replace(QUIET, fault=fault)
    assert soaking.survives(drawn, private, tmp_path / "run", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_miss_is_seen_and_kept(private, tmp_path):
    """A job that ends with another code than it must is a miss, and its logs stay."""
    drawn = replace(QUIET, code=0)
    assert not soaking.survives(drawn, private, tmp_path / "run", tmp_path / "kept")
    kept = tmp_path / "kept/1"
    assert "AssertionError: {3}" in (kept / "missed.txt").read_text()
    assert (kept / "logs/node-0.stderr").stat().st_size
