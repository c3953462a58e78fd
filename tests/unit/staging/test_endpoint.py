"""Which settings are plain enough to use S3 without botocore."""

import json
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from agent.staging.endpoint import NotPlain, plain_endpoint

KEYS = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "secret"}
HERE = {"AWS_REGION": "eu-west-1"}
OWN = HERE | {"AWS_ENDPOINT_URL_S3": "http://s3:8333/"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_aws_by_its_region():
    found = plain_endpoint(KEYS | HERE | {"AWS_SESSION_TOKEN": "t"}, path_style=False)
    assert (found.url, found.region) == ("https://s3.eu-west-1.amazonaws.com", "eu-west-1")
    assert found.credentials() == ("AKIA", "secret", "t")
    assert found.authorities.endswith("cacert.pem")


def test_an_endpoint_of_one_s_own():
    found = plain_endpoint(KEYS | OWN, path_style=True)
    assert (found.url, found.path_style) == ("http://s3:8333", True)
    assert found.credentials() == ("AKIA", "secret", "")


def test_certificates_of_one_s_own():
    env = KEYS | HERE | {"AWS_CA_BUNDLE": "/etc/own.pem"}
    assert plain_endpoint(env, path_style=False).authorities == "/etc/own.pem"


@pytest.mark.parametrize(
    "more",
    [
        {"AWS_REGION": ""},
        {"AWS_REGION": "cn-north-1", "AWS_ENDPOINT_URL_S3": ""},
        {"AWS_ACCESS_KEY_ID": ""},
        {"AWS_ENDPOINT_URL_S3": "http://s3:8333/prefix"},
        {"AWS_ENDPOINT_URL_S3": "http://user:word@s3:8333"},
        {"AWS_PROFILE": "mine"},
        {"AWS_SESSION_TOKEN": "token\n"},
        {"AWS_USE_FIPS_ENDPOINT": "true"},
        {"https_proxy": "http://proxy:3128"},
    ],
    ids=lambda more: "-".join(more),
)
def test_what_botocore_knows_better(more):
    assert plain_endpoint(KEYS | OWN | more, path_style=True) is None


@pytest.mark.parametrize("name", ["config", "credentials"])
def test_a_file_of_the_sdk_s(home, name):
    (home / ".aws").mkdir()
    (home / ".aws" / name).touch()
    assert plain_endpoint(KEYS | OWN, path_style=True) is None


def test_a_container_s_role():
    """They are asked for once, and again when they are about to expire."""
    asked, lifetimes = [], [timedelta(minutes=5), timedelta(hours=6)]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if not lifetimes:
                self.send_error(429)
                return
            expires = datetime.now(UTC) + lifetimes.pop(0)
            body = {"AccessKeyId": f"a{len(asked)}", "SecretAccessKey": "s", "Token": "t"}
            body["Expiration"] = expires.strftime("%Y-%m-%dT%H:%M:%SZ")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/role?id=1"
            env = OWN | {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url}
            credentials = plain_endpoint(env, path_style=True).credentials
            assert [credentials().access_key for _ in range(3)] == ["a1", "a2", "a2"]
            assert asked == ["/role?id=1"] * 2
            with pytest.raises(NotPlain):
                plain_endpoint(env, path_style=True).credentials()
        finally:
            server.shutdown()
            thread.join()
