"""Make a compose file that rehearses a job of AWS Batch on this machine, with an S3 server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Any

from agent.core.errors import USAGE, AgentError
from agent.core.settings import Settings, read
from agent.tools.cluster.job import Job
from agent.tools.cluster.s3 import REGION

Fields = dict[str, Any]

# The server of docker/compose.yaml.
S3_IMAGE = "architrave-s3"
SUBNET = "172.30.77"
HEADER = f"""\
# Made by architrave generate compose. The image {S3_IMAGE} is the one of docker/compose.yaml:
#   docker-compose -f docker/compose.yaml build s3
# Then, with PRIVATE_PASSWD exported if the archive has one:
#   docker-compose -f FILE up
"""
_S3_HOST, _FIRST_HOST, _MAX_NODES = 5, 10, 240
_PORT = 8333
_KEYS = {"AWS_REGION": REGION, "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
_PYTHON = "/opt/architrave/bin/python3"
# Fills the buckets before a node starts. Several nodes need a key pair, so without an archive one
# that has nothing else in it is made.
_FILL = """\
import json, os, shutil, subprocess, sys, tempfile
import boto3
from agent.core.environ import region

request = json.loads(sys.argv[1])
s3 = boto3.client("s3", region_name=region(os.environ))
for bucket in request["buckets"]:
    try:
        s3.create_bucket(Bucket=bucket)
    except (s3.exceptions.BucketAlreadyExists, s3.exceptions.BucketAlreadyOwnedByYou):
        pass
for path, bucket, key in request["files"]:
    if path is None:
        os.chdir(tempfile.mkdtemp())
        name = request["key_name"]
        keygen = ["ssh-keygen", "-q", "-t", "rsa", "-b", "3072", "-N", "", "-f", name]
        subprocess.run(keygen, check=True)
        path, packer = "private.7z", shutil.which("7zz") or "7z"
        argv = [packer, "a", "-bso0", "-bsp0", path, name, name + ".pub"]
        subprocess.run(argv, check=True)
    s3.upload_file(path, bucket, key)
"""
_HEALTHY = (
    f"exec 3<>/dev/tcp/127.0.0.1/{_PORT} && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3"
    " && grep -q ' 200 ' <&3"
)


def compose(job: Job, subnet: str = SUBNET) -> Fields:
    """Return a compose file of an S3 server, what fills it, and one service for each node.

    `subnet` is the first three numbers of the network's addresses. Raises AgentError: 64 for a job
    that can't be rehearsed, 78 for invalid settings.
    """
    _check(job, subnet)
    fresh = job.private is None and job.nodes > 1
    # For the nodes' variables it only matters whether there is an archive.
    described = replace(job, private=Path("private.7z")) if fresh else job
    endpoint = {"AWS_ENDPOINT_URL_S3": f"http://{subnet}.{_S3_HOST}:{_PORT}"} | _KEYS
    main_address = _address(subnet, job.main_index)
    environments = {
        index: endpoint | described.environment(index, main_address) for index in job.start_order
    }
    settings = read(environments[job.main_index])
    for env in environments.values():
        read(env)
    services = {"s3": _s3(subnet), "archives": _archives(job, settings, endpoint)}
    for index, env in environments.items():
        services[_name(job, index)] = _node(job, index, env, _address(subnet, index))
    network = {"ipam": {"config": [{"subnet": f"{subnet}.0/24"}]}}
    return {"services": services, "networks": {"nodes": network}}


def _check(job: Job, subnet: str) -> None:
    if not 1 <= job.nodes <= _MAX_NODES or not 0 <= job.main_index < job.nodes:
        cause = f"there are from 1 to {_MAX_NODES} nodes, and the main node is one of them"
        what = f"rehearse {job.nodes} nodes with main node {job.main_index}"
        raise AgentError(what, cause, code=USAGE, hint="for example --nodes 3")
    try:
        IPv4Address(f"{subnet}.0")
    except AddressValueError as error:
        what, hint = f"use --subnet {subnet}", f"three numbers, for example {SUBNET}"
        raise AgentError(what, "not a subnet", code=USAGE, hint=hint) from error


def _address(subnet: str, index: int) -> str:
    return f"{subnet}.{_FIRST_HOST + index}"


def _name(job: Job, index: int) -> str:
    return job.name(index).replace(" ", "-")


def _s3(subnet: str) -> Fields:
    return {
        "image": S3_IMAGE,
        "command": [f"-ip={subnet}.{_S3_HOST}", "-ip.bind=0.0.0.0"],
        "environment": {name: _KEYS[name] for name in _KEYS if name != "AWS_REGION"},
        "ports": [f"127.0.0.1:{_PORT}:{_PORT}"],
        "healthcheck": {
            "test": ["CMD", "bash", "-c", _HEALTHY],
            "interval": "1s",
            "timeout": "2s",
            "retries": 60,
        },
        "networks": {"nodes": {"ipv4_address": f"{subnet}.{_S3_HOST}"}},
    }


def _archives(job: Job, settings: Settings, endpoint: Mapping[str, str]) -> Fields:
    files: list[tuple[str | None, str, str]] = []
    volumes = []
    for uri, path in ((settings.private, job.private), (settings.deps, job.deps)):
        if uri is None or (path is None and uri is settings.deps):
            continue
        files.append((f"/archives/{uri.key}" if path else None, uri.bucket, uri.key))
        if path:
            mount = {"type": "bind", "source": str(path.resolve()), "read_only": True}
            volumes.append(_escaped(mount | {"target": f"/archives/{uri.key}"}))
    uris = (settings.private, settings.deps, settings.output)
    buckets = sorted({uri.bucket for uri in uris if uri})
    request = json.dumps(
        {"buckets": buckets, "files": files, "key_name": settings.network.key_name}
    )
    made: Fields = {
        "image": job.image,
        "depends_on": {"s3": {"condition": "service_healthy"}},
        "environment": dict(endpoint),
        "entrypoint": [_PYTHON, "-I", "-c", _dollars(_FILL)],
        "command": [_dollars(request)],
        "networks": ["nodes"],
    }
    return made | ({"volumes": volumes} if volumes else {})


def _node(job: Job, index: int, env: Mapping[str, str], address: str) -> Fields:
    before = (
        {"archives": {"condition": "service_completed_successfully"}}
        if index == job.main_index
        else {_name(job, job.main_index): {"condition": "service_started"}}
    )
    # A name without a value is the caller's own.
    secret = {"PRIVATE_PASSWD": None} if job.private else {}
    return {
        "image": job.image,
        "stop_grace_period": "30s",
        "depends_on": before,
        "environment": {**_escaped(env), **secret},
        "networks": {"nodes": {"ipv4_address": address}},
    }


def _escaped(fields: Mapping[str, Any]) -> Fields:
    return {k: _dollars(v) if isinstance(v, str) else v for k, v in fields.items()}


def _dollars(text: str) -> str:
    """Return a text in which compose replaces no variable."""
    return text.replace("$", "$$")
