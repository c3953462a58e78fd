"""Events of Lambda: known shapes are opened, all else is refused by name."""

import base64
import json
from urllib.parse import quote_plus

import pytest

from agent.awslambda.events import FOLDER_NOTE, TEST_NOTE, Opened, open_event
from agent.core import event_variables
from agent.core.errors import AgentError

KEY = "in/a b+ü.txt"
OWN = {"params": ["a"]}
TEST = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"}


def s3(key=KEY, name="ObjectCreated:Put", size=3):
    described = {"bucket": {"name": "b"}, "object": {"key": quote_plus(key), "size": size}}
    return {"Records": [{"eventSource": "aws:s3", "eventName": name, "s3": described}]}


def sqs(*bodies):
    records = [{"eventSource": "aws:sqs", "messageId": "1", "body": text(one)} for one in bodies]
    return {"Records": records}


def sns(message):
    return {"Records": [{"EventSource": "aws:sns", "Sns": {"Message": text(message)}}]}


def envelope(message):
    """Return what SNS puts into a queue."""
    return {"Type": "Notification", "TopicArn": "arn:…", "Message": text(message)}


def bridge(key=KEY, kind="Object Created", size=3):
    detail = {"bucket": {"name": "b"}, "object": {"key": key, "size": size}}
    return {"version": "0", "source": "aws.s3", "detail-type": kind, "detail": detail}


def url(body, *, base64_=False, **more):
    """Return a function URL's request, which is API Gateway's form 2.0."""
    given = body if body is None or isinstance(body, str) else text(body)
    if base64_:
        given = base64.b64encode(given.encode()).decode()
    request = {"version": "2.0", "routeKey": "$default", "rawPath": "/", "headers": {}}
    request |= {"requestContext": {"http": {"method": "POST"}}, "isBase64Encoded": base64_}
    return request | ({} if body is None else {"body": given}) | more


def gateway(body):
    """Return API Gateway's form 1.0."""
    request = {"resource": "/", "path": "/", "httpMethod": "POST", "requestContext": {"stage": "x"}}
    return request | {"body": body if body is None else text(body), "isBase64Encoded": False}


def text(value):
    return value if isinstance(value, str) else json.dumps(value)


OBJECTS = {
    "s3": s3(),
    "sqs": sqs(s3()),
    "sns": sns(s3()),
    "sns in sqs": sqs(envelope(s3())),
    "eventbridge": bridge(),
    "eventbridge in sqs": sqs(bridge()),
    "eventbridge in sns in sqs": sqs(envelope(bridge())),
    "url": url(s3()),
    "a test before it in a batch": sqs(TEST, s3()),
}


@pytest.mark.parametrize("event", OBJECTS.values(), ids=OBJECTS.keys())
def test_an_object_is_found_in_each_shape(event):
    assert open_event(json.dumps(event)) == Opened(("b", KEY))


OWNS = {
    "itself": OWN,
    "sqs": sqs(OWN),
    "sns": sns(OWN),
    "sns in sqs": sqs(envelope(OWN)),
    "url": url(OWN),
    "url in base64": url(OWN, base64_=True),
    "gateway": gateway(OWN),
}


@pytest.mark.parametrize("event", OWNS.values(), ids=OWNS.keys())
def test_an_event_of_one_s_own_in_each_shape(event):
    assert open_event(json.dumps(event)) == Opened(own=OWN)


DEFAULTS = {
    "empty": {},
    "null": None,
    "url without body": url(None),
    "url with an empty body": url(""),
    "url with {}": url("{}"),
    "gateway without body": gateway(None),
    "sqs with {}": sqs({}),
}


@pytest.mark.parametrize("event", DEFAULTS.values(), ids=DEFAULTS.keys())
def test_the_default_job(event):
    assert open_event(json.dumps(event)) == Opened()
    assert open_event("") == Opened()


NOTES = {
    "test": (TEST, TEST_NOTE),
    "test in sqs": (sqs(TEST), TEST_NOTE),
    "test in sns": (sns(TEST), TEST_NOTE),
    "test in sns in sqs": (sqs(envelope(TEST)), TEST_NOTE),
    "folder": (s3("new folder/", size=0), FOLDER_NOTE),
    "folder in sqs": (sqs(s3("a/b/", size=0)), FOLDER_NOTE),
    "folder by eventbridge": (bridge("a/b/", size=0), FOLDER_NOTE),
}


@pytest.mark.parametrize(("event", "note"), NOTES.values(), ids=NOTES.keys())
def test_nothing_to_run(event, note):
    assert open_event(json.dumps(event)) == Opened(note=note)


REFUSED = {
    "misspelt": ({"param": ["a"]}, "param", "params"),
    "one key too many": ({"params": "a", "outputs": "x"}, "outputs", "output"),
    "text": ("run it", "text", "run it"),
    "list": ([1, 2], "a list", "[1, 2]"),
    "number": (7, "a number", "7"),
    "true": (True, "true or false", "True"),
    "no records": ({"Records": []}, "[]", "Records"),
    "records that are none": ({"Records": "x"}, "x", "Records"),
    "two objects": ({"Records": s3()["Records"] * 2}, "2 records", "one at a time"),
    "two messages": (sqs(OWN, s3()), "2 records", "one at a time"),
    "an object that is gone": (s3(name="ObjectRemoved:Delete"), "ObjectRemoved", "creation"),
    "gone by eventbridge": (bridge(kind="Object Deleted"), "Object Deleted", "creation"),
    "another service": ({"Records": [{"eventSource": "aws:kinesis"}]}, "aws:kinesis", ""),
    "no source": ({"Records": [{}]}, "somewhere else", ""),
    "a message without text": ({"Records": [{"eventSource": "aws:sqs"}]}, "SQS", ""),
    "a message that is not JSON": (sqs("hello"), "SQS", "not JSON"),
    "a body that is not JSON": (url("a=1&b=2"), "body", "not JSON"),
    "a body that is not base64": (url("{}") | {"isBase64Encoded": True}, "base64", ""),
    "a misspelt key in a body": (url({"param": "x"}), "param", "params"),
    "a schedule": ({"source": "aws.events", "detail": {}, "id": "1"}, "'source'", "{}"),
    "no object": ({"source": "aws.s3", "detail": {}}, "names no object", ""),
}


@pytest.mark.parametrize(("event", "word", "more"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_understood_is_64_and_says_what_is_known(event, word, more):
    with pytest.raises(AgentError) as caught:
        open_event(json.dumps(event))
    said = f"{caught.value} {caught.value.hint}"
    assert caught.value.code == 64 and word in said and more in said
    assert "records" in word or "params, input, output or env" in caught.value.hint
    assert len(said) < 600


def test_deep_and_long_events_are_refused_in_one_line():
    deep = OWN
    for _ in range(12):
        deep = sqs(deep)
    for event in ("[" * 100_000, json.dumps(deep), json.dumps({"x" * 10**6: 1})):
        with pytest.raises(AgentError) as caught:
            open_event(event)
        assert caught.value.code == 64 and len(str(caught.value)) < 500


# -- what an event may set

DANGEROUS = (
    *("LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "PATH", "OMP_TOOL", "OMP_TOOL_LIBRARIES"),
    *("PYTHONPATH", "PYTHONSTARTUP", "BASH_ENV", "ENV", "AWS_REGION", "AWS_ENDPOINT_URL_S3"),
    *("ARCHITRAVE_OUTPUT", "ARCHITRAVE_EVENT_ENV", "GCONV_PATH", "GLIBC_TUNABLES", "PERL5LIB"),
    *("OMPI_MCA_mca_component_path", "HYDRA_LAUNCHER_EXEC", "HOME", "TMPDIR", "EXEC_TYPE"),
    *("S3_BUCKET", "PRIVATE_PASSWD", "SSH_PRIV_FILE_KEY", "_X_AMZN_TRACE_ID", "NODE_OPTIONS"),
    *("JAVA_TOOL_OPTIONS", "RUBYOPT", "CUDA_INJECTION64_PATH", "BASH_FUNC_x%%", "TMP_OUTPUT_DIR"),
)


@pytest.mark.cell("security.events")
@pytest.mark.parametrize("name", DANGEROUS)
@pytest.mark.parametrize("pattern", ["*", "[A-Z_]*", "?*"])
def test_no_pattern_opens_what_runs_code(name, pattern):
    assert not event_variables.allows(name, event_variables.read({event_variables.NAME: pattern}))
    assert not event_variables.allows(name, event_variables.DEFAULT)


@pytest.mark.parametrize("given", ["LD_PRELOAD", "A LD_*", "OMP_TOOL_LIBRARIES", "PATH", "AWS_*"])
def test_naming_it_is_a_mistake_in_the_settings(given):
    with pytest.raises(AgentError) as caught:
        event_variables.read({event_variables.NAME: given})
    assert caught.value.code == 78 and given.split()[-1] in str(caught.value)


def test_the_program_is_opened_by_its_exact_name_only():
    assert not event_variables.allows("APP_BIN", ["APP_*"])
    assert event_variables.allows("APP_BIN", ["APP_*", "APP_BIN"])


@pytest.mark.parametrize(
    ("name", "patterns", "word"),
    [
        ("LD_PRELOAD", ["*"], "no event may set it"),
        ("APP_BIN", ["APP_*"], "must list APP_BIN"),
        ("OTHER", ["APP_*"], "allowed are APP_*"),
    ],
)
def test_the_hint_leads_on(name, patterns, word):
    """Following it never makes the function refuse to start."""
    assert word in event_variables.advice(name, patterns)


@pytest.mark.parametrize("name", ["R_MIN", "NODE_COUNT", "MPI_TYPE", "FI_X", "LUA_N", "JAVAX"])
def test_a_user_s_own_names_are_unchanged(name):
    assert event_variables.allows(name, ["*"])


def test_the_default_names():
    allowed = event_variables.read({})
    for name in ("APP_PARAMS", "APP_IN_FILE", "OMP_NUM_THREADS", "OMP_SCHEDULE"):
        assert event_variables.allows(name, allowed)
    for name in ("OMP_DISPLAY_ENV", "OMP_NEW", "APP_BIN", "APP_PARAMS3", "SCRIPT"):
        assert not event_variables.allows(name, allowed)
    assert not event_variables.allows(
        "APP_PARAMS", event_variables.read({event_variables.NAME: ""})
    )
