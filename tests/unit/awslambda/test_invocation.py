"""Events of Lambda and the time of an invocation: whatever comes is read or refused by name."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.awslambda.invocation import answer, budget, read
from agent.core.errors import AgentError
from agent.core.model import AGENT, Outcome
from agent.core.s3_uri import S3Uri

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
    assert isinstance(request, str) or all(isinstance(v, str) for v in request.env.values())


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
    assert request.input == S3Uri("b", key)


@given(
    st.floats(min_value=0.5, max_value=900),
    st.floats(min_value=0, max_value=600),
)
def test_each_step_ends_before_the_next_and_all_before_the_end(remaining, grace):
    plan = budget(remaining, grace)
    assert 0 <= plan.application <= plan.upload <= plan.answer < remaining
    assert plan.application + plan.grace < plan.upload or plan.application == 0
    assert plan.grace <= grace


@pytest.mark.parametrize("remaining", [5, 60, 900])
def test_most_of_the_time_is_the_applications(remaining):
    assert budget(remaining, 15).application > 0.55 * remaining


@pytest.mark.parametrize("remaining", [-3.0, 0.0])
def test_an_invocation_that_is_over_already_has_no_time(remaining):
    plan = budget(remaining, 15)
    assert (plan.application, plan.grace, plan.answer) == (0, 0, 0)


@pytest.mark.parametrize(
    "event",
    [
        {"params": "a\0b"},
        {"params": ["a", "\ud800"]},
        {"env": {"APP_X=Y": "1"}},
        {"env": {"APP_X": "\ud800"}},
        {"input": "s3://bucket/a\0b"},
        {"input": "s3://bucket/folder/"},
        {"params": {"a": "ы" * 10**6}},
        {"env": {"x" * 10**6: "1"}},
    ],
    ids=lambda event: str(event)[:30],
)
def test_what_no_program_can_be_given_is_refused_in_one_line(event):
    with pytest.raises(AgentError) as caught:
        read(json.dumps(event), ["APP_*"])
    assert caught.value.code == 64 and len(str(caught.value)) < 400


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/"])
def test_a_bucket_without_a_key_is_refused(uri):
    """An input without a key is the caller's mistake, 64, and no bug of the agent's."""
    with pytest.raises(AgentError) as caught:
        read(json.dumps({"input": uri}), [])
    assert caught.value.code == 64 and "s3://bucket" in str(caught.value)


def test_a_key_is_taken_as_it_stands():
    assert read('{"input": "s3://bucket/a//b"}', []).input == S3Uri("bucket", "a//b")


def test_an_answer_stays_below_lambdas_limit():
    files = [{"name": f"{'n' * 200}{n}", "size": 1, "sha256": "0" * 64} for n in range(10**5)]
    uploaded = {"files": files, "failed": files}
    outcome = Outcome(73, AGENT, cause="c")
    text = json.dumps(answer(outcome, {}, None, uploaded, ["x" * (1 << 14)]))
    assert len(text) < 5 << 20 and json.loads(text)["file_count"] == 10**5
