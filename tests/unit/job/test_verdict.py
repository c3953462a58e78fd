"""The first failure decides, whatever follows, in any order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import CANNOT_WRITE, AgentError
from agent.core.model import AGENT, APPLICATION, NodeFiles, Outcome
from agent.job.verdict import Verdict, complete, outcome_of

CODES = st.integers(1, 255)


def error(code):
    return AgentError(f"do {code}", "it can't", code=code)


ERRORS = CODES.map(error)


@given(code=st.integers(0, 255), later=st.lists(ERRORS))
def test_what_follows_the_application_counts_only_if_it_succeeded(code, later):
    verdict = Verdict()
    verdict.decide(Outcome(code))
    for one in later:
        verdict.degrade(one)
    first = code or (later[0].code if later else 0)
    assert verdict.code == first
    assert verdict.failure is (later[0] if later else None)


@given(before=st.lists(ERRORS), last=ERRORS, after=st.lists(ERRORS))
def test_work_that_is_aborted_ends_with_the_first_failure(before, last, after):
    verdict = Verdict()
    for one in before:
        verdict.fail(one)
    verdict.abort(last)
    for one in after:
        verdict.degrade(one)
    first = (*before, last)[0]
    assert verdict.outcome == outcome_of(first)
    assert verdict.outcome.cause == str(first)


@given(code=st.integers(0, 255), lost=st.booleans())
def test_results_that_are_lost_make_73_only_if_nothing_failed_before(code, lost):
    verdict = Verdict()
    verdict.decide(Outcome(code, APPLICATION))
    if lost:
        verdict.degrade(error(CANNOT_WRITE))
    assert verdict.code == (code or (CANNOT_WRITE if lost else 0))
    assert (verdict.code == CANNOT_WRITE and lost) == (code in (0, CANNOT_WRITE) and lost)


@given(st.lists(ERRORS, min_size=1))
def test_only_the_first_failure_is_the_first(errors):
    verdict = Verdict()
    assert [verdict.fail(one) for one in errors] == [True, *[False] * (len(errors) - 1)]
    assert verdict.failure is errors[0]


def test_a_failure_alone_does_not_change_an_outcome():
    """A SIGTERM after the application has succeeded: its results are uploaded completely."""
    verdict = Verdict()
    verdict.decide(Outcome(0))
    verdict.fail(error(143))
    assert verdict.code == 0


def test_the_outcome_is_not_known_before_it_is_decided():
    with pytest.raises(AssertionError):
        Verdict().outcome  # noqa: B018


def test_a_cause_is_named_without_a_change_of_code_or_source():
    verdict = Verdict()
    verdict.decide(Outcome(137, APPLICATION))
    verdict.explain("a rank ran out of memory", "more memory", out_of_memory=True)
    found = verdict.outcome
    assert (found.code, found.out_of_memory, found.cause) == (137, True, "a rank ran out of memory")
    assert outcome_of(error(75)) == Outcome(75, AGENT, cause="cannot do 75: it can't", hint="")


@given(st.integers(1, 5), st.dictionaries(st.integers(0, 4), st.booleans()))
def test_the_manifest_wants_every_node_complete(count, stored):
    nodes = {index: NodeFiles("", "", whole) for index, whole in stored.items() if index < count}
    expected = set(nodes) == set(range(count)) and all(stored[index] for index in nodes)
    assert complete(nodes, count) == expected
