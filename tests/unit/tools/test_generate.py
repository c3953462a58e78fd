"""A job definition of `generate` is accepted by AWS Batch and by the job, and takes effect."""

import json
import re

import botocore.session
import pytest
from botocore.validate import ParamValidator

from agent.core import exit_codes, settings
from agent.core.deadlines import STOP_SECONDS
from agent.core.errors import AgentError
from agent.core.exit_codes import ExitCode
from agent.core.s3_uri import S3Uri
from agent.tools.cluster.job import Job
from agent.tools.commands import parser
from agent.tools.generate import job_definition
from agent.tools.generate.job_definition import Wanted, retry_rules
from agent.tools.generate.variables import secrets, variables
from tests.support.aws_rules import is_tried_again

TABLE = (*exit_codes.OWN, *exit_codes.APPLICATION)
SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:pw-a1b2c3"


def check_by_botocore(made):
    """Check with botocore's own model of AWS Batch, by which the AWS command line checks too."""
    model = botocore.session.get_session().get_service_model("batch")
    shape = model.operation_model("RegisterJobDefinition").input_shape
    report = ParamValidator().validate(made, shape)
    assert not report.has_errors(), report.generate_report()
    # The validator looks at types and names of fields, not at an enumeration's values.
    actions = model.shape_for("RetryAction").enum
    rules = made["retryStrategy"]["evaluateOnExit"]
    assert {rule["action"].upper() for rule in rules} <= {one.upper() for one in actions}
    assert made["type"] in model.shape_for("JobDefinitionType").enum


def container(made):
    if made["type"] == "container":
        return made["containerProperties"]
    (nodes,) = made["nodeProperties"]["nodeRangeProperties"]
    return nodes["container"]


def variables_of(made):
    return {one["name"]: one["value"] for one in container(made)["environment"]}


FULL = Wanted(
    image="registry.example/app:1",
    name="my-job_1",
    vcpus=4,
    memory=8192,
    timeout=3600,
    attempts=10,
    env={"S3_BUCKET": "s3://b/p", "APP_BIN": "/opt/app", "APP_PARAMS": "-n 'a  b'"},
    secrets={"PRIVATE_PASSWD": SECRET},
    job_role="arn:aws:iam::123456789012:role/job",
    execution_role="arn:aws:iam::123456789012:role/execution",
    log_group="/my/jobs",
    shared_memory=512,
    ulimits={"nofile": (1024, 65536), "memlock": (-1, -1)},
    execute_command=True,
)


def wanted(**changes):
    return Wanted(**(vars(FULL) | changes))


# -- retry rules


@pytest.mark.parametrize("code", range(1, 256))
def test_an_exit_code_is_tried_again_only_where_that_can_help(code):
    helps = {one.code for one in TABLE if one.again}
    rules = job_definition.job_definition(FULL)["retryStrategy"]["evaluateOnExit"]
    assert is_tried_again(rules, code) == (code in helps)
    # A reason that AWS Batch gives beside the code changes nothing, whatever it is.
    assert is_tried_again(rules, code, reason="OutOfMemoryError: killed") == (code in helps)


@pytest.mark.parametrize(
    ("status_reason", "again"),
    [
        ("Host EC2 (instance i-0123456789abcdef0) terminated.", True),
        ("Task failed to start", False),
        ("CannotPullContainerError: no such image", False),
        ("", False),
    ],
)
def test_a_lost_instance_is_tried_again_and_nothing_else_without_a_code(status_reason, again):
    rules = retry_rules(TABLE)
    assert is_tried_again(rules, None, status_reason) == again
    if again:  # also where the container got SIGTERM before
        assert is_tried_again(rules, 143, status_reason)


def test_the_rules_are_as_aws_batch_reads_them():
    rules = retry_rules(TABLE)
    assert len(rules) <= 5
    for rule in rules:
        assert re.fullmatch(r"\d+\*?", rule.get("onExitCode", "1"))
        for name in ("onReason", "onStatusReason"):
            assert re.fullmatch(r"[A-Za-z0-9.:\s]*\*?", rule.get(name, ""))


def test_a_table_that_needs_more_rules_is_a_bug():
    table = [ExitCode(code, "", "", again=True) for code in (1, 2, 3)]
    assert len(retry_rules(table)) == 5
    with pytest.raises(AgentError) as caught:
        retry_rules([*table, ExitCode(4, "", "", again=True)])
    assert caught.value.code == 70


# -- job definition


@pytest.mark.parametrize("nodes", [1, 4])
@pytest.mark.parametrize("full", [False, True])
def test_botocore_takes_the_definition(nodes, full):
    changes = {"nodes": nodes, "main_index": nodes - 1}
    made = job_definition.job_definition(
        wanted(**changes) if full else Wanted(image="i", **changes)
    )
    check_by_botocore(made)
    assert ("nodeProperties" in made) == (nodes > 1)
    if nodes > 1:
        assert (made["nodeProperties"]["numNodes"], made["nodeProperties"]["mainNode"]) == (4, 3)
        assert "FARGATE" not in made.get("platformCapabilities", [])


def test_the_definition_says_what_was_asked():
    made = job_definition.job_definition(FULL)
    inside = container(made)
    assert made["timeout"] == {"attemptDurationSeconds": 3600}
    assert made["retryStrategy"]["attempts"] == 10
    assert inside["resourceRequirements"] == [
        {"type": "VCPU", "value": "4"},
        {"type": "MEMORY", "value": "8192"},
    ]
    assert inside["linuxParameters"] == {"sharedMemorySize": 512}
    assert inside["secrets"] == [{"name": "PRIVATE_PASSWD", "valueFrom": SECRET}]
    assert inside["ulimits"] == [
        {"name": "nofile", "softLimit": 1024, "hardLimit": 65536},
        {"name": "memlock", "softLimit": -1, "hardLimit": -1},
    ]
    assert inside["logConfiguration"]["options"]["awslogs-group"] == "/my/jobs"
    assert inside["enableExecuteCommand"] is True
    assert inside["jobRoleArn"].endswith("/job")
    assert inside["executionRoleArn"].endswith("/execution")
    # The image's own ENTRYPOINT and CMD are the job.
    assert "command" not in inside


@pytest.mark.parametrize(("nodes", "index"), [(1, 0), (3, 1), (3, 0), (3, 2)])
def test_the_job_reads_what_was_asked(nodes, index):
    """The definition's variables with those that AWS Batch sets give the settings asked for."""
    made = job_definition.job_definition(wanted(nodes=nodes, main_index=nodes // 2))
    batch = Job(nodes=nodes, main_index=nodes // 2).environment(index, "10.0.0.1")
    batch = {name: value for name, value in batch.items() if name.startswith("AWS_BATCH")}
    read = settings.read(variables_of(made) | batch)
    assert (read.mode, read.command) == ("batch", ("/opt/app", "-n", "a  b"))
    assert read.private == S3Uri("b", "p/batch/private.7z")
    assert read.output == S3Uri("b", "p/output")
    assert (read.topology.count, read.topology.is_main) == (nodes, index == nodes // 2)
    assert 0 < read.limits.timeout < 3600


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_program_s_limit_comes_before_aws_batch_s(nodes):
    """Staging and upload fit between both limits; the timeout that a hint names is the minimum."""
    env = {"ARCHITRAVE_GRACE_SECONDS": "7", "ARCHITRAVE_JOIN_TIMEOUT_SECONDS": "90"}

    def limit(timeout, **more):
        made = job_definition.job_definition(
            Wanted(image="i", nodes=nodes, timeout=timeout, env=env | more)
        )
        return float(variables_of(made)["ARCHITRAVE_TIMEOUT_SECONDS"])

    join = 90 if nodes > 1 else 0
    assert 0 < limit(2000) <= 2000 - join - 7 - STOP_SECONDS
    with pytest.raises(AgentError) as caught:
        limit(60)
    assert caught.value.code == 64
    minimum = int(re.search(r"\d+", caught.value.hint)[0])
    assert limit(minimum) >= 1
    with pytest.raises(AgentError):
        limit(minimum - 1)
    # A limit of the user's own stays, and is refused where it doesn't fit.
    assert limit(2000, ARCHITRAVE_TIMEOUT_SECONDS="12.5") == 12.5
    with pytest.raises(AgentError) as caught:
        limit(2000, ARCHITRAVE_TIMEOUT_SECONDS="1999")
    assert limit(int(re.search(r"\d+", caught.value.hint)[0]), ARCHITRAVE_TIMEOUT_SECONDS="1999")


def test_without_a_timeout_there_is_no_limit():
    made = job_definition.job_definition(Wanted(image="i"))
    assert "timeout" not in made and variables_of(made) == {}


def test_shared_memory_is_half_of_the_memory():
    made = job_definition.job_definition(Wanted(image="i", memory=3000))
    assert container(made)["linuxParameters"] == {"sharedMemorySize": 1500}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"name": "-x"}, "--name"),
        ({"name": "x" * 129}, "--name"),
        ({"vcpus": 0}, "--vcpus"),
        ({"memory": 3}, "--memory"),
        ({"attempts": 0}, "--attempts"),
        ({"attempts": 11}, "--attempts"),
        ({"shared_memory": -1}, "--shared-memory"),
        ({"nodes": 0}, "--nodes"),
        ({"nodes": 1001}, "--nodes"),
        ({"nodes": 2, "main_index": 2}, "--main-index"),
        ({"main_index": -1}, "--main-index"),
        ({"execution_role": ""}, "--secret PRIVATE_PASSWD"),
        ({"secrets": {"APP_BIN": SECRET}}, "--secret APP_BIN"),
        ({"env": {"APP_PARAMS": "x" * 25_000}}, "definition"),
    ],
)
def test_what_aws_batch_would_not_take_is_64(changes, names):
    with pytest.raises(AgentError) as caught:
        job_definition.job_definition(wanted(**changes))
    assert caught.value.code == 64 and names in str(caught.value) and caught.value.hint


@pytest.mark.parametrize(
    "env",
    [
        {"S3_BUCKET": "ftp://x"},
        {"ARCHITRAVE_SLOTS": "many"},
        {"ARCHITRAVE_LAUNCHER": "srun"},
        {"EXEC_TYPE": "cloud"},
        {"APP_PARAMS": "'open"},
    ],
)
def test_what_the_job_would_not_take_fails_here_with_the_same_error(env):
    with pytest.raises(AgentError) as here:
        job_definition.job_definition(Wanted(image="i", env=env))
    with pytest.raises(AgentError) as there:
        settings.read(env | {"AWS_BATCH_JOB_ID": "1"})
    assert (str(here.value), here.value.code) == (str(there.value), there.value.code)


@pytest.mark.parametrize("text", ["nofile", "nofile=x", "open=1", "nofile=2:1", "nofile=-2", "=1"])
def test_a_ulimit_that_cannot_be_is_64(text):
    with pytest.raises(AgentError) as caught:
        job_definition.ulimit(text)
    assert caught.value.code == 64


def test_a_ulimit_is_read_as_docker_reads_it():
    assert job_definition.ulimit("nofile=10:20") == ("nofile", (10, 20))
    assert job_definition.ulimit("memlock=-1") == ("memlock", (-1, -1))
    assert job_definition.ulimit("stack=5:-1") == ("stack", (5, -1))


# -- variables


@pytest.mark.parametrize("name", ["PRIVATE_PASSWD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
def test_a_secret_is_no_variable(name):
    with pytest.raises(AgentError) as caught:
        variables([f"{name}=geheim"], secret_hint="--secret NAME=ARN")
    assert (caught.value.code, caught.value.hint) == (64, "--secret NAME=ARN")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("AWS_BATCH_JOB_NUM_NODES=3", "--nodes"),
        ("AWS_BATCH_EXIT_CODE_FILE=/x", "ENV"),
        ("ARCHITRAVE_TIMEOUT=3", "ARCHITRAVE_TIMEOUT_SECONDS"),
        ("APP_BIN", "NAME=VALUE"),
        ("=x", "NAME=VALUE"),
    ],
)
def test_a_variable_that_cannot_be_set_is_64(text, hint):
    with pytest.raises(AgentError) as caught:
        variables([text], secret_hint="")
    assert caught.value.code == 64 and hint in caught.value.hint


def test_a_variable_that_is_given_twice_is_64():
    with pytest.raises(AgentError):
        variables(["A=1", "A=2"], secret_hint="")
    assert variables(["A=1=2", "B="], secret_hint="") == {"A": "1=2", "B": ""}


@pytest.mark.parametrize(
    "text", ["PRIVATE_PASSWD", "P=geheim", "P=arn:aws:s3:::bucket/key", f"AWS_BATCH_X={SECRET}"]
)
def test_a_secret_is_an_arn(text):
    with pytest.raises(AgentError) as caught:
        secrets([text])
    assert caught.value.code == 64
    assert "geheim" not in str(caught.value)


# -- the command line


def test_every_option_of_the_command_line_arrives(capsys):
    arguments = (
        "generate job-definition --image registry.example/app:1 --name my-job_1 --vcpus 4"
        " --memory 8192 --timeout 3600 --attempts 10 -e S3_BUCKET=s3://b/p -e APP_BIN=/opt/app"
        f" --secret PRIVATE_PASSWD={SECRET} --job-role {FULL.job_role}"
        f" --execution-role {FULL.execution_role} --log-group /my/jobs --shared-memory 512"
        " --ulimit nofile=1024:65536 --ulimit memlock=-1 --exec"
    ).split()
    assert parser.main([*arguments, "-e", "APP_PARAMS=-n 'a  b'"]) == 0
    assert json.loads(capsys.readouterr().out) == job_definition.job_definition(FULL)


def test_a_file_that_cannot_be_written_is_73(tmp_path):
    arguments = ["generate", "iam-policy", "-e", "S3_BUCKET=b", "--to", str(tmp_path)]
    with pytest.raises(AgentError) as caught:
        parser.main(arguments)
    assert caught.value.code == 73
