"""Policies, compose and SCAR's files of `generate` give what a job needs, and no more."""

import json
import re
from pathlib import Path

import pytest
import yaml

from agent.core import settings
from agent.core.errors import AgentError
from agent.core.s3_uri import S3Uri
from agent.tools.cluster.job import Job
from agent.tools.commands import parser
from agent.tools.generate import compose, iam_policy, scar
from agent.tools.generate.variables import settings_on
from tests.support.aws_rules import allows
from tests.support.basics import REPOSITORY

SECRET = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:pw-a1b2c3"

# -- policies


def policy(listing=False, execute_command=False, **env):
    read = settings_on({"S3_BUCKET": "s3://b/p"} | env)
    return iam_policy.job_policy(read, listing=listing, execute_command=execute_command)


def test_the_job_reads_its_archives_and_nothing_else():
    made = policy()
    assert allows(made, "s3:GetObject", "arn:aws:s3:::b/p/batch/private.7z")
    assert allows(made, "s3:GetObject", "arn:aws:s3:::b/p/batch/deps.tar.gz")
    for other in ("p/batch/other", "p/output/j/attempt-1/run.json", "batch/private.7z"):
        assert not allows(made, "s3:GetObject", f"arn:aws:s3:::b/{other}")
    assert not allows(made, "s3:ListBucket", "arn:aws:s3:::b")


def test_the_job_writes_its_results_and_nothing_else():
    made = policy(ARCHITRAVE_OUTPUT="s3://r/x")
    below = "arn:aws:s3:::r/x/job/attempt-1"
    for action in ("s3:PutObject", "s3:AbortMultipartUpload"):
        assert allows(made, action, f"{below}/node-0/a")
        for other in ("b/p/output/a", "r/xy", "r/x", "b/p/batch/private.7z"):
            assert not allows(made, action, f"arn:aws:s3:::{other}")
    assert allows(made, "s3:DeleteObject", f"{below}/node-0/.write-probe")
    assert not allows(made, "s3:DeleteObject", f"{below}/node-0/a")


def test_what_is_switched_off_is_not_allowed():
    off = {"S3_BATCH_DEPS_REL_PATH": "<none>", "S3_BATCH_PRIVATE_REL_PATH": ""}
    made = policy(**off)
    assert not allows(made, "s3:GetObject", "arn:aws:s3:::b/p/batch/private.7z")
    with pytest.raises(AgentError) as caught:  # IAM takes no policy that says nothing
        policy(**off, ARCHITRAVE_OUTPUT="<none>")
    assert caught.value.code == 64


def test_a_list_of_packages_is_read_with_what_is_beside_it():
    made = policy(S3_BATCH_DEPS_REL_PATH="debs/deps_batch.lst")
    assert allows(made, "s3:GetObject", "arn:aws:s3:::b/p/debs/a.deb")
    assert not allows(made, "s3:GetObject", "arn:aws:s3:::b/p/a.deb")
    made = policy(listing=True, S3_BATCH_DEPS_REL_PATH="debs/deps.tar.gz")
    assert allows(made, "s3:GetObject", "arn:aws:s3:::b/p/debs/deps_batch.lst")
    assert allows(made, "s3:ListBucket", "arn:aws:s3:::b")


def test_a_list_at_the_bucket_s_root_opens_nothing_else():
    made = policy(S3_BATCH_DEPS_REL_PATH="own.lst", S3_BUCKET="s3://b")
    assert allows(made, "s3:GetObject", "arn:aws:s3:::b/own.lst")
    assert allows(made, "s3:GetObject", "arn:aws:s3:::b/a.deb")
    assert not allows(made, "s3:GetObject", "arn:aws:s3:::b/output/other/attempt-1/run.json")


def test_a_secret_is_named_with_what_secrets_manager_adds():
    short = SECRET[: -len("-a1b2c3")]
    made = iam_policy.execution_policy("", [short])
    assert allows(made, "secretsmanager:GetSecretValue", SECRET)
    assert not allows(made, "secretsmanager:GetSecretValue", f"{short}-and-more-a1b2c3")


@pytest.mark.parametrize(("key", "other"), [("a*", "ab"), ("a?", "ab"), ("*/a", "b/a")])
def test_a_key_with_a_wildcard_in_it_means_itself(key, other):
    made = policy(S3_BATCH_PRIVATE_REL_PATH=key)
    assert allows(made, "s3:GetObject", f"arn:aws:s3:::b/p/{key}")
    assert not allows(made, "s3:GetObject", f"arn:aws:s3:::b/p/{other}")


def test_a_key_with_a_dollar_in_it_names_no_variable_of_iam():
    made = policy(S3_BATCH_PRIVATE_REL_PATH="${aws:username}")
    assert "${aws:" not in str(made)
    assert allows(made, "s3:GetObject", "arn:aws:s3:::b/p/${aws:username}")


def test_a_shell_in_the_job_needs_four_actions_more():
    more = [one for one in policy(execute_command=True)["Statement"] if one["Resource"] == ["*"]]
    assert [len(one["Action"]) for one in more] == [4]
    assert not [one for one in policy()["Statement"] if "*" in one["Resource"]]


def test_the_execution_role_reads_the_secrets_named_and_writes_the_log():
    parameter = "arn:aws:ssm:eu-west-1:123456789012:parameter/pw"
    made = iam_policy.execution_policy("/my/jobs", [f"{SECRET}:key::", parameter])
    assert allows(made, "secretsmanager:GetSecretValue", SECRET)
    assert not allows(made, "secretsmanager:GetSecretValue", SECRET[:-1] + "4")
    assert allows(made, "ssm:GetParameters", parameter)
    stream = "arn:aws:logs:eu-west-1:1:log-group:/my/jobs:log-stream:a/default/1"
    assert allows(made, "logs:PutLogEvents", stream)
    assert not allows(made, "logs:PutLogEvents", stream.replace("jobs", "other"))
    usual = iam_policy.execution_policy("", [])
    assert allows(usual, "logs:CreateLogStream", stream.replace("/my/jobs", "/aws/batch/job"))
    assert not allows(usual, "ssm:GetParameters", parameter)


# -- compose


def nodes_of(made):
    return {k: v for k, v in made["services"].items() if k not in ("s3", "archives")}


def test_compose_starts_every_node_as_aws_batch_does():
    job = Job(nodes=3, main_index=1, image="i", env={"APP_PARAMS": "a$b ${c}"})
    made = compose.compose(job, "10.1.2")
    found = nodes_of(made)
    assert list(found) == ["main", "worker-0", "worker-2"]
    addresses = [one["networks"]["nodes"]["ipv4_address"] for one in made["services"].values()
                 if isinstance(one["networks"], dict)]  # fmt: skip
    assert len(set(addresses)) == 4 and all(one.startswith("10.1.2.") for one in addresses)
    main_address = found["main"]["networks"]["nodes"]["ipv4_address"]
    for name, node in found.items():
        assert node["environment"]["APP_PARAMS"] == "a$$b $${c}"  # compose reads $$ as $
        env = {k: v.replace("$$", "$") for k, v in node["environment"].items()}
        read = settings.read(env)
        assert read.topology.count == 3 and read.topology.is_main == (name == "main")
        assert read.topology.main_address == ("" if name == "main" else main_address)
        assert read.command[1:] == ("a$b", "${c}")
        assert read.helper_env["AWS_ENDPOINT_URL_S3"] == "http://10.1.2.5:8333"
    assert found["worker-2"]["depends_on"] == {"main": {"condition": "service_started"}}


def test_compose_has_what_the_compose_file_of_the_repository_has():
    """The S3 server is the same, and so are the variables that AWS Batch sets."""
    text = (REPOSITORY / "docker/compose.yaml").read_text()
    theirs = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))["services"]
    made = compose.compose(Job(nodes=3))["services"]
    for field in ("image", "environment", "ports", "networks"):
        assert made["s3"][field] == theirs["s3"][field]
    health = dict(made["s3"]["healthcheck"])
    assert health == theirs["s3"]["healthcheck"]
    assert set(made["s3"]["command"]) <= set(theirs["s3"]["command"])
    for name in ("main", "worker-1", "worker-2"):
        for one, value in theirs[name]["environment"].items():
            if one.startswith(("AWS_BATCH_JOB_N", "AWS_BATCH_JOB_MAIN", "AWS_ENDPOINT")):
                assert made[name]["environment"][one] == value
        assert made[name]["networks"] == theirs[name]["networks"]


def test_compose_gives_the_password_of_a_given_archive_only_by_name():
    made = compose.compose(Job(nodes=2, private=Path("my.7z")))
    for node in nodes_of(made).values():
        assert node["environment"]["PRIVATE_PASSWD"] is None
    (mount,) = made["services"]["archives"]["volumes"]
    assert mount["source"] == str(Path("my.7z").resolve()) and mount["read_only"]


@pytest.mark.parametrize(
    ("job", "subnet"),
    [
        (Job(nodes=0), "10.1.2"),
        (Job(nodes=241), "10.1.2"),
        (Job(nodes=2, main_index=2), "10.1.2"),
        (Job(), "10.1"),
        (Job(), "10.1.2.3"),
        (Job(), "a.b.c"),
    ],
)
def test_compose_refuses_what_cannot_be_rehearsed(job, subnet):
    with pytest.raises(AgentError) as caught:
        compose.compose(job, subnet)
    assert caught.value.code == 64


# -- SCAR


def scar_wanted(**changes):
    usual = {
        "mode": "batch",
        "name": "architrave-batch",
        "image": "example/architrave",
        "bucket": S3Uri("scar-architrave"),
        "script": "../../docker/opt/run_batch.sh",
        "nodes": 3,
    }
    return scar.Wanted(**(usual | changes))


LAMBDA_CHANGES = {
    "mode": "lambda",
    "name": "architrave-lambda",
    "image": "/tmp/architrave-docker.img",
    "script": "run_helper.sh",
    "nodes": 1,
    "memory": 1280,
}


@pytest.mark.parametrize(("file", "changes"), [("batch.yaml", {}), ("lambda.yaml", LAMBDA_CHANGES)])
def test_scar_s_file_is_the_example_that_scar_reads(file, changes):
    """tests/scar lets SCAR read the examples: what is equal is read alike."""
    example = yaml.safe_load((REPOSITORY / "examples/scar" / file).read_text())
    assert scar.scar(scar_wanted(**changes)) == example


@pytest.mark.parametrize(
    "changes",
    [
        {"vcpus": 0},
        {"memory": 0},
        {"nodes": 0},
        {"main_index": 3},
        {"env": {"EXEC_TYPE": "lambda"}},
        LAMBDA_CHANGES | {"timeout": 901},
        LAMBDA_CHANGES | {"nodes": 2},
    ],
)
def test_scar_refuses_what_cannot_be(changes):
    with pytest.raises(AgentError) as caught:
        scar.scar(scar_wanted(**changes))
    assert caught.value.code == 64


def test_scar_s_nodes_run_at_once():
    (made,) = scar.scar(scar_wanted(vcpus=2))["functions"]["aws"]
    assert made["batch"]["compute_resources"]["max_v_cpus"] == 6


def test_scar_s_variables_are_read_as_the_job_reads_them():
    with pytest.raises(AgentError) as caught:
        scar.scar(scar_wanted(env={"ARCHITRAVE_SLOTS": "x"}))
    assert caught.value.code == 78


# -- the command line


def test_the_policies_of_the_command_line(capsys, tmp_path):
    arguments = ["generate", "iam-policy", "-e", "S3_BUCKET=s3://b/p", "--list-bucket", "--exec"]
    assert parser.main([*arguments, "--to", str(tmp_path / "policy.json")]) == 0
    assert capsys.readouterr().out == ""
    made = json.loads((tmp_path / "policy.json").read_text())
    assert made == policy(listing=True, execute_command=True)
    role = ["--role", "execution", "--secret", f"P={SECRET}", "--log-group", "/x"]
    assert parser.main(["generate", "iam-policy", *role]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made == iam_policy.execution_policy("/x", [SECRET])


def test_a_policy_needs_a_bucket_by_name():
    """A bucket of another account, the default, is in no policy by mistake."""
    with pytest.raises(AgentError) as caught:
        parser.main(["generate", "iam-policy"])
    assert caught.value.code == 64 and "S3_BUCKET" in caught.value.hint


def test_yaml_is_read_again_as_it_was_made(capsys):
    arguments = ["--image", "example/architrave", "--bucket", "scar-architrave", "--nodes", "3"]
    script = ["--script", "../../docker/opt/run_batch.sh"]
    assert parser.main(["generate", "scar", "batch", *arguments, *script]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == scar.scar(scar_wanted())
    assert parser.main(["generate", "compose", "--nodes", "2", "--subnet", "10.1.2"]) == 0
    read = yaml.safe_load(capsys.readouterr().out)
    made = compose.compose(Job(nodes=2), "10.1.2")
    assert read["services"]["archives"] == made["services"]["archives"]
    assert read["services"].keys() == made["services"].keys()
