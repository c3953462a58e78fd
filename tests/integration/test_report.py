"""The report of real runs: beside the results and on S3, and that nothing hangs on it."""

import contextlib
import json
import os
import signal

import jsonschema
import psutil
import pytest

import agent.tools.commands.report as report_command
from agent.core.errors import AgentError
from agent.tools.cluster.cluster import Cluster
from agent.tools.commands.options import Parser
from tests.support.basics import slow, until
from tests.support.clusters import described, make_private, run_json
from tests.unit.report.test_page import SCHEMA, check_self_contained, strict

BATCH = {
    "EXEC_TYPE": "batch",
    "ARCHITRAVE_LAUNCHER": "direct",
    "S3_BATCH_DEPS_REL_PATH": "<none>",
    "S3_BATCH_PRIVATE_REL_PATH": "<none>",
    "ARCHITRAVE_OUTPUT": "<none>",
    "APP_BIN": "/opt/app",
    "APP_PARAMS": "",
}
PAGE = "tmp/output/report.html"


@pytest.fixture
def app(root):
    """Return what makes a script the application."""

    def make(script):
        (root / "opt/app").write_text(f"#!/bin/sh\n{script}\n")

    return make


@pytest.fixture
def on_s3(s3, s3_env, tmp_path):
    """Return a job's environment, and what returns its objects below the attempt's prefix."""
    prefix = os.urandom(4).hex()
    env = BATCH | s3_env | {"AWS_BATCH_JOB_ID": "j", "ARCHITRAVE_OUTPUT": f"s3://bucket/{prefix}"}

    def objects():
        base = f"{prefix}/j/attempt-1/"
        s3.download("bucket", base, tmp_path / "got")
        return {key.removeprefix(base) for key in s3.keys("bucket", base)}

    return env, objects


def report(*arguments):
    """Run `architrave report` with these arguments; return its exit code."""
    parser = Parser(prog="architrave")
    report_command.add(parser.add_subparsers(required=True))
    options = parser.parse_args(["report", *map(str, arguments)])
    return options.action(options)


def warnings(err):
    lines = [json.loads(line) for line in err.splitlines()]
    return [line["event"] for line in lines if line["level"] == "warning"]


def test_page_lies_beside_the_record(job, root, app):
    """In batch mode without S3, with the cause and the output's end; the record fits the schema."""
    app("echo diverged; sleep 1.3; exit 3")
    code, _, err = job(**BATCH)
    assert code == 3, err
    seen = check_self_contained((root / PAGE).read_text())
    assert "exit code 3" in seen.text and "diverged" in seen.text
    run = json.loads((root / "tmp/output/run.json").read_text())
    jsonschema.validate(run, strict(SCHEMA))
    assert run["last_lines"][0] == "diverged"
    assert len(run["nodes"][0]["samples"]["sent_bytes_per_second"]) >= 1


def test_success_keeps_no_output_in_the_record(job, root, app):
    app("echo fine")
    assert job(**BATCH)[0] == 0
    assert "last_lines" not in json.loads((root / "tmp/output/run.json").read_text())
    assert "The job succeeded" in check_self_contained((root / PAGE).read_text()).text


def test_plain_lambda_mode_makes_none(job, root, app):
    """There the end is not made longer by it."""
    app("true")
    assert job(**BATCH | {"EXEC_TYPE": "lambda"})[0] == 0
    assert (root / "tmp/run.json").exists() and not (root / "tmp/report.html").exists()


def test_page_on_s3(job, app, on_s3, s3, tmp_path):
    """Beside run.json, shown by a browser; the manifest comes last and lists neither."""
    env, objects = on_s3
    app("echo kept >$TMP_OUTPUT_DIR/result")
    code, _, err = job(**env)
    assert code == 0, err
    names = {"node-0/result", "node-0/time.log", "run.json", "report.html", "manifest.json"}
    assert objects() == names
    manifest = json.loads((tmp_path / "got/manifest.json").read_text())
    assert {file["path"] for file in manifest["files"]} == {"node-0/result", "node-0/time.log"}
    check_self_contained((tmp_path / "got/report.html").read_text())
    key = f"{env['ARCHITRAVE_OUTPUT'].rpartition('/')[2]}/j/attempt-1/"
    heads = {n: s3.client().head_object(Bucket="bucket", Key=key + n) for n in names}
    assert heads["report.html"]["ContentType"].startswith("text/html")
    assert heads["manifest.json"]["LastModified"] == max(h["LastModified"] for h in heads.values())


def test_report_that_cannot_be_made_costs_nothing(job, root, app, on_s3):
    """A warning; the exit code, the record and the manifest are what they would be."""
    env, objects = on_s3
    app(f"mkdir {root}/var/tmp/.architrave-{os.getuid()}/report.html; exit 4")
    code, _, err = job(**env)
    assert code == 4, err
    assert "report_failed" in warnings(err)
    assert objects() == {"node-0/time.log", "run.json", "manifest.json"}
    assert not (root / PAGE).exists()


def page_maker(process):
    """Return the process that makes the page, once the agent has started it."""

    def found():
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(process.pid).children():
                if child.cmdline()[-1:] == ["report"]:
                    return child
        return None

    return until(found)


@pytest.mark.parametrize("number", [slow(signal.SIGSTOP), signal.SIGKILL])
def test_report_that_is_never_ready_is_given_up(agent, root, app, on_s3, number):
    """What makes the page hangs, or is killed; the job goes on without it."""
    env, objects = on_s3
    app("true")
    process = agent("run", env=env)
    page_maker(process).send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "report_failed" in warnings(err)
    assert objects() == {"node-0/time.log", "run.json", "manifest.json"}


def test_own_report_is_a_result(job, root, app, on_s3, tmp_path):
    """A result that happens to be called report.html stays, and goes up as one."""
    env, objects = on_s3
    app("echo mine >$TMP_OUTPUT_DIR/report.html")
    assert job(**env)[0] == 0
    assert (root / PAGE).read_text() == "mine\n"
    assert {"node-0/report.html", "report.html"} < objects()
    assert (tmp_path / "got/node-0/report.html").read_text() == "mine\n"
    check_self_contained((tmp_path / "got/report.html").read_text())


@pytest.mark.cell("security.secrets")
def test_secret_in_the_output_s_end(job, root, app):
    """What the application says of a secret is in neither the record nor the page."""
    app("echo the password is geheim-1; exit 3")
    assert job(**BATCH, PRIVATE_PASSWD="geheim-1")[0] == 3
    made = (root / PAGE).read_text() + (root / "tmp/output/run.json").read_text()
    assert "the password is ***" in made and "geheim-1" not in made


def test_cluster(tmp_path, keys, capsys, s3, s3_env, monkeypatch):
    """Of three real nodes the page and both commands name all, from a directory, a file and S3."""
    (tmp_path / "private").mkdir()
    private = make_private(tmp_path / "private", keys)
    job = described(params="exit 3", image=None, private=private, timeout=100,
                    results=tmp_path / "results")  # fmt: skip
    with Cluster(job) as cluster:
        result = cluster.wait()
    assert result.code == 3
    run = run_json(result)
    jsonschema.validate(run, strict(SCHEMA))
    assert run["node_count"] == 3 and len(run["nodes"]) == 3
    seen = check_self_contained((result.results / "report.html").read_text())
    assert "main worker 1 worker 2" in seen.text and "on 3 nodes" in seen.text
    again = tmp_path / "again.html"
    assert report(result.results, "--to", again) == 0
    assert again.read_text() == (result.results / "report.html").read_text()
    s3.put_file("bucket", "reports/x/run.json", result.results / "run.json")
    for name, value in s3_env.items():
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    texts = []
    for source in (result.results, result.results / "run.json", "s3://bucket/reports/x"):
        assert report(source, "--text") == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2] and "worker 2" in texts[0]
    compared = tmp_path / "compared.html"
    assert report(result.results, "s3://bucket/reports/x/", "--to", compared) == 0
    assert "First: phases" in check_self_contained(compared.read_text()).text


def test_page_goes_beside_the_record_by_itself(job, root, app, capsys):
    app("true")
    assert job(**BATCH)[0] == 0
    (root / PAGE).unlink()
    assert report(root / "tmp/output") == 0
    assert capsys.readouterr().out.strip() == str(root / PAGE)
    check_self_contained((root / PAGE).read_text())


def test_sources_without_a_record(tmp_path):
    """What is missing, and what is not a record, is refused, each with its code."""
    (tmp_path / "run.json").write_text("{}")
    for source, code in ((tmp_path / "none", 66), (tmp_path, 65), (__file__, 65)):
        with pytest.raises(AgentError) as caught:
            report(source, "--text")
        assert caught.value.code == code and caught.value.hint


def test_page_that_cannot_be_written(job, root, app):
    app("true")
    assert job(**BATCH)[0] == 0
    with pytest.raises(AgentError) as caught:
        report(root / "tmp/output", "--to", root / "no/such/directory/x")
    assert caught.value.code == 73 and caught.value.hint
