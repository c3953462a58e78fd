"""Events of Lambda and the time of an invocation: whatever comes is read or refused by name."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import AgentError
from agent.invocation import answer, budget, read
from agent.model import AGENT, Outcome
from agent.settings import S3Place

JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
NAMES = st.sampled_from(["params", "input", "output", "env", "Records", "source", "detail", "x"])


@given(JSON | st.dictionaries(NAMES, JSON))
def test_any_json_is_read_or_refused(value):
    try:
        request = read(json.dumps(value), ["APP_*"])
    except AgentError as error:
        assert error.code in (64, 78) and error.hint
        return
    assert request is not None
    assert all(isinstance(text, str) for text in request.env.values())


@given(st.text())
def test_any_text_is_read_or_refused(text):
    try:
        read(text, [])
    except AgentError as error:
        assert error.code in (64, 78)


@given(st.text(min_size=1).filter(lambda key: key.rpartition("/")[2] not in ("", ".", "..")))
def test_the_key_of_an_s3_event_is_decoded(key):
    from urllib.parse import quote_plus

    if "\0" in key:
        return
    quoted = quote_plus(key.encode("utf-8", "surrogatepass"))
    record = {"s3": {"bucket": {"name": "b"}, "object": {"key": quoted}}}
    request = read(json.dumps({"Records": [record]}), [])
    assert request.input == S3Place("b", key)


@given(
    st.floats(min_value=0.5, max_value=900),
    st.floats(min_value=0, max_value=600),
    st.just(0) | st.floats(min_value=0.1, max_value=1000),
)
def test_the_application_is_gone_before_the_answer_and_that_before_the_end(remaining, grace, limit):
    plan = budget(remaining, grace, limit)
    assert 0 < plan.application < plan.application + plan.grace + 0.05 <= plan.answer + 0.1
    assert plan.answer < remaining
    assert not limit or plan.application <= limit


@pytest.mark.parametrize("remaining", [5, 60, 900])
def test_most_of_the_time_is_the_applications(remaining):
    assert budget(remaining, 15, 0).application > 0.6 * remaining


@pytest.mark.parametrize("remaining", [-3.0, 0.0])
def test_an_invocation_that_is_over_already_has_no_time(remaining):
    assert budget(remaining, 15, 0).answer == 0


def test_an_answer_stays_below_lambdas_limit():
    files = [{"name": f"{'n' * 200}{n}", "size": 1, "sha256": "0" * 64} for n in range(10**5)]
    uploaded = {"files": files, "failed": files}
    outcome = Outcome(73, AGENT, cause="c")
    text = json.dumps(answer(outcome, {}, None, uploaded, "x" * (1 << 14)))
    assert len(text) < 5 << 20 and json.loads(text)["file_count"] == 10**5
