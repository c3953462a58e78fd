"""Walk through the steps of examples/scar/README.md in an AWS account that moto serves.

account.py WORK DEFINITION.yaml HELPER.sh ACTION…

SCAR and faas-supervisor are the real ones. GitHub, which SCAR asks for the releases of its
supervisor, is answered here, with the packages that the index has; and there is no Docker engine.
The results of the steps are in WORK afterwards: account.json, and the function's code in task/, or
in context/ what its image is to be built from.
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from function import context

VERSION = "1.5.8"
REGION = "us-east-1"
ACCOUNT = "123456789012"
KEYS = {"aws_access_key_id": "AKIAEXAMPLE", "aws_secret_access_key": "secret"}
# Instead of GitHub's udocker/udocker.py, whose release the index doesn't have: of what it says
# SCAR takes the second line for the image's name.
UDOCKER = """
import runpy, sys
from pathlib import Path
sys.path[0] = str(Path(__file__).parents[1])
sys.argv.insert(1, "--quiet")
print("Info: loading", flush=True)
runpy.run_module("udocker.maincmd", run_name="__main__")
"""


def configure_user(work, endpoint):
    """Make the user's configuration, before boto3 and SCAR read it."""
    credentials = work / "credentials"
    lines = "".join(f"{name} = {value}\n" for name, value in KEYS.items())
    credentials.write_text(f"[default]\nregion = {REGION}\n{lines}")
    os.environ |= {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
        "AWS_DEFAULT_REGION": REGION,
        "SCAR_CONFIG_FOLDER": str(work / "scar"),
        "SCAR_LOG_PATH": str(work / "log"),
        "HOME": str(work),
        "TMPDIR": str(work),
    }


def found_account(boto3):
    """Make what SCAR's documentation asks an account to have; return a subnet and a group."""
    iam = boto3.client("iam")
    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    for name, path in (("scar", "/"), ("AWSBatchServiceRole", "/service-role/")):
        iam.create_role(RoleName=name, Path=path, AssumeRolePolicyDocument=trust)
    iam.create_instance_profile(InstanceProfileName="ecsInstanceRole")
    ec2 = boto3.client("ec2")
    # As after the first `scar init` of this account: the script in it comes from GitHub as well.
    ec2.create_launch_template(
        LaunchTemplateName="faas-supervisor",
        VersionDescription=VERSION,
        LaunchTemplateData={"UserData": ""},
    )
    subnets = ec2.describe_subnets()["Subnets"]
    groups = ec2.describe_security_groups()["SecurityGroups"]
    return subnets[0]["SubnetId"], groups[0]["GroupId"]


def github(url):
    """Answer instead of GitHub: the release exists, and its source is the installed package."""
    if url.endswith(f"/releases/tags/{VERSION}"):
        program = {"name": "supervisor.zip", "browser_download_url": "program"}
        release = {"tag_name": VERSION, "zipball_url": "source", "assets": [program]}
        return json.dumps(release).encode()
    if url == "program":
        return zip_of_program()
    assert url == "source", url
    import faassupervisor
    import udocker

    tool = zip_of(udocker, "udocker", {"udocker/udocker.py": UDOCKER})
    more = {"source/extra/udocker.zip": tool}
    return zip_of(faassupervisor, "source/faassupervisor", more)


def zip_of(package, name, more):
    """Return a zip of a package below a name, and of more files."""
    data = io.BytesIO()
    root = Path(package.__file__).parent
    with zipfile.ZipFile(data, "w") as archive:
        for path in sorted(root.rglob("*.py")):
            archive.write(path, Path(name) / path.relative_to(root))
        for path, content in more.items():
            archive.writestr(path, content)
    return data.getvalue()


def zip_of_program():
    """Return a zip of faas-supervisor's program."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.write("/opt/faas-supervisor/bin/supervisor", "supervisor")
    return data.getvalue()


class Engine:
    """The user's Docker engine, which is not here: keeps what it is given to build."""

    def __init__(self, directory):
        self.images = self
        self._directory = directory

    def build(self, path, **options):
        shutil.copytree(path, self._directory)

    def login(self, **options):
        pass

    def push(self, name, **options):
        return []


def run_scar(*arguments):
    """Run SCAR as its command line does; return the code of a run that ended before its end."""
    from scar import scarcli

    print("$ scar", *arguments, flush=True)
    sys.argv = ["scar", *arguments]
    try:
        scarcli.main()
    except SystemExit as end:
        return end.code
    return 0


def complete(path, subnet, group):
    """Fill in the file that SCAR's first start writes, as it asks for."""
    config = json.loads(path.read_text())
    config["aws"]["iam"]["role"] = f"arn:aws:iam::{ACCOUNT}:role/scar"
    config["aws"]["lambda"]["supervisor"]["version"] = VERSION
    network = {"subnets": [subnet], "security_group_ids": [group]}
    config["aws"]["batch"]["compute_resources"] |= network
    path.write_text(json.dumps(config))


def s3_event(bucket, key):
    """Return the event that S3 sends for an object that was put."""
    s3 = {
        "bucket": {"name": bucket, "arn": f"arn:aws:s3:::{bucket}"},
        "object": {"key": key, "size": 1},
    }
    record = {"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "awsRegion": REGION}
    return {"Records": [record | {"eventTime": "2026-01-01T00:00:00.000Z", "s3": s3}]}


def unpack(work, backends):
    """Unpack the function's code as AWS Lambda does, links as links."""
    (function,) = backends["lambda"].list_functions()
    if function.package_type == "Image":
        return
    package = work / "function.zip"
    package.write_bytes(function.code_bytes)
    subprocess.run(["unzip", "-q", package, "-d", work / "task"], check=True)
    package.unlink()


def submitted(work, function, event):
    """Let the function handle an event; return its answer and the job that it submits."""
    os.environ |= function["Environment"]["Variables"]
    os.environ["AWS_EXECUTION_ENV"] = "AWS_Lambda_python3.11"
    import boto3
    from faassupervisor.faas.aws_lambda.function_handler import lambda_handler

    jobs = []
    boto3.setup_default_session()
    boto3.DEFAULT_SESSION.events.register(
        "provide-client-params.batch.SubmitJob", lambda params, **_: jobs.append(params)
    )
    with contextlib.chdir(work / "task"):
        answer = lambda_handler(event, context(function))
    return answer, jobs


def resources(boto3, backends, bucket):
    """Return what the account holds."""
    s3, batch = boto3.client("s3"), boto3.client("batch")
    buckets = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    listed = {name: s3.list_objects_v2(Bucket=name).get("Contents", []) for name in buckets}
    return {
        "functions": boto3.client("lambda").list_functions()["Functions"],
        # The API of moto leaves the nodes' properties out.
        "definitions": [
            {"name": one.name, "container": one.container_properties, "node": one.node_properties}
            for one in backends["batch"]._job_definitions.values()
            if one.status == "ACTIVE"
        ],
        "queues": batch.describe_job_queues()["jobQueues"],
        "environments": batch.describe_compute_environments()["computeEnvironments"],
        "objects": {name: [one["Key"] for one in found] for name, found in listed.items()},
        "notifications": s3.get_bucket_notification_configuration(Bucket=bucket),
    }


def walk(work, definition, helper, actions):
    import boto3
    import yaml
    from moto.awslambda_simple.models import lambda_simple_backends
    from moto.batch.models import batch_backends
    from scar.http import request

    import docker

    backends = {"lambda": lambda_simple_backends, "batch": batch_backends}
    backends = {name: found[ACCOUNT][REGION] for name, found in backends.items()}
    request.get_file = github
    docker.from_env = lambda: Engine(work / "context")
    output = yaml.safe_load(Path(definition).read_text())["functions"]["aws"][0]["lambda"]["output"]
    bucket = output[0]["path"].partition("/")[0]
    codes = {"first": run_scar("init", "-f", definition)}
    complete(work / "scar/scar.cfg", *found_account(boto3))
    codes["init"] = run_scar("init", "-f", definition)
    found = resources(boto3, backends, bucket) | {"codes": codes}
    unpack(work, backends)
    (function,) = found["functions"]
    if "batch" in actions:
        codes["put"] = run_scar("put", "-b", f"{bucket}/input", "-p", helper)
        found["put"] = resources(boto3, backends, bucket)["objects"]
        key = f"input/{Path(helper).name}"
        # What a job leaves there.
        boto3.client("s3").put_object(Bucket=bucket, Key="output/time.log", Body=b"kept")
        codes["get"] = run_scar("get", "-b", f"{bucket}/output", "-p", str(work / "results"))
        results = (work / "results").rglob("*")
        found["got"] = [str(path.relative_to(work)) for path in results if path.is_file()]
        found["answer"], found["jobs"] = submitted(work, function, s3_event(bucket, key))
    if "remove" in actions:
        codes["rm"] = run_scar("rm", "-f", definition)
        found["removed"] = resources(boto3, backends, bucket)
    (work / "account.json").write_text(json.dumps(found, default=str, indent=1))


def main(work, definition, helper, *actions):
    from moto.core.config import default_user_config
    from moto.server import ThreadedMotoServer

    for name in ("batch", "lambda"):
        default_user_config[name] = {"use_docker": False}
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        configure_user(work, "http://{}:{}".format(*server.get_host_and_port()))
        walk(work, definition, helper, actions)
    finally:
        server.stop()


main(Path(sys.argv[1]).resolve(), *sys.argv[2:])
