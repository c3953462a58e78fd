"""Compare what moves archives and results: ours, boto3 in two ways, s5cmd, the AWS CLI.

All against the same embedded S3 server, interleaved, each in a process of its own: wall seconds,
processor seconds and peak memory, medians. Ours includes the checksums that are verified or put
into the manifest. The peers are installed into build/peers. Run by hand:
PYTHONPATH=. .tox/tests/bin/python benchmarks/transfers.py [RUNS] [MEBIBYTES] [FILES]
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agent.tools.cluster.s3 import EmbeddedS3
from benchmarks.common import PEERS, REPOSITORY, install_peers, write

BUCKET = "bench"
SMALL = 64 << 10

OURS_DOWN = """
import sys
from agent.core.s3_uri import S3Uri
from agent.staging.s3 import Storage
Storage(lambda message: None, path_style=True).fetch(S3Uri("bench", "large"), sys.argv[1])
"""
OURS_SMALL_DOWN = """
import sys
from agent.staging import deps
from agent.core.s3_uri import S3Uri
from agent.staging.s3 import Storage
storage = Storage(lambda message: None, path_style=True)
place = S3Uri("bench", "small/deps_batch.lst")
fetched = deps.fetch_listed(storage, place, storage.read(place), sys.argv[1])
assert len(fetched) == int(sys.argv[2]), len(fetched)
"""
# boto3 with its defaults, and tuned as ours is where that uses it: CONFIG down|up SOURCE TARGET
BOTO = """
import os, sys, boto3
from boto3.s3.transfer import TransferConfig
from concurrent.futures import ThreadPoolExecutor
kind, way, source, target = sys.argv[1:]
config = {
    "defaults": TransferConfig(),
    "tuned": TransferConfig(multipart_threshold=32 << 20, multipart_chunksize=32 << 20,
                            max_concurrency=2, io_chunksize=4 << 20),
}[kind]
client = boto3.client("s3")
if way == "down" and not source.endswith("/"):
    client.download_file("bench", source, target, Config=config)
    sys.exit()
def move(name):
    if way == "down":
        client.download_file("bench", f"{source}{name}", f"{target}/{name}", Config=config)
    else:
        client.upload_file(f"{source}/{name}", "bench", f"{target}/{name}", Config=config)
if way == "up":
    names = os.listdir(source)
else:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="bench", Prefix=source)
    names = [one["Key"].rpartition("/")[2] for page in pages for one in page["Contents"]]
with ThreadPoolExecutor(8) as pool:
    list(pool.map(move, names))
"""
KINDS = {"boto3": "defaults", "boto3 tuned": "tuned"}

# A small process starts each: a child's peak memory begins with that of its parent.
LAUNCH = """
import os, sys, time
start = time.monotonic()
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
seconds = time.monotonic() - start
print(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def measure(command: list[str], env: dict[str, str], text: str = "") -> tuple[float, float, float]:
    """Run a command; return wall seconds, processor seconds and peak MiB.

    A helper gets `text`, and must report that it has uploaded all.
    """
    words = [sys.executable, "-I", "-S", "-c", LAUNCH, *command]
    done = subprocess.run(words, env=env, input=text.encode(), capture_output=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    if text:
        last = [json.loads(line) for line in done.stdout.splitlines()]
        uploaded = next(line["uploaded"] for line in last if "uploaded" in line)
        assert uploaded["files"] and not uploaded["failed"], last
    seconds, cpu, peak = map(float, done.stderr.split()[-3:])
    return seconds, cpu, peak


def stage_out(directory: Path) -> str:
    """Return the request by which the agent's helper uploads a directory."""
    request = {
        "uri": {"bucket": BUCKET, "key": "ours"},
        "node": "node-0",
        "path_style": True,
        "directory": str(directory),
        "files": sorted(os.listdir(directory)),
        "sources": {},
    }
    return json.dumps(["stage_out", request]) + "\n"


def tasks(work: Path, endpoint: str, count: int) -> dict[str, dict[str, Callable[[], list[str]]]]:
    """Return what is measured: {task: {peer: command}}."""
    python, down, many = sys.executable, str(work / "down"), str(work / "many")
    s5, aws = [f"{PEERS}/bin/s5cmd", "--endpoint-url", endpoint], [f"{PEERS}/bin/aws"]
    plain = "--endpoint-url", endpoint, "s3", "cp", "--only-show-errors"
    found: dict[str, dict[str, Callable[[], list[str]]]] = {
        "large down": {
            "ours": lambda: [python, "-c", OURS_DOWN, down],
            "s5cmd": lambda: [*s5, "cp", f"s3://{BUCKET}/large", down],
            "aws": lambda: [*aws, *plain, f"s3://{BUCKET}/large", down],
        },
        "small down": {
            "ours": lambda: [python, "-c", OURS_SMALL_DOWN, many, str(count)],
            "s5cmd": lambda: [*s5, "cp", f"s3://{BUCKET}/small/*", f"{many}/"],
            "aws": lambda: [*aws, *plain, "--recursive", f"s3://{BUCKET}/small/", many],
        },
    }
    for name, directory in (("large up", work / "large"), ("small up", work / "small")):
        where = str(directory)
        found[name] = {
            "ours": lambda: [python, "-I", "agent/helper.py", "stage_out"],
            "s5cmd": lambda where=where: [*s5, "cp", f"{where}/", f"s3://{BUCKET}/s5/"],
            "aws": lambda where=where: [*aws, *plain, "--recursive", where, f"s3://{BUCKET}/aws/"],
        }
    for peer, kind in KINDS.items():
        boto = [f"{PEERS}/bin/python", "-c", BOTO, kind]
        found["large down"][peer] = lambda boto=boto: [*boto, "down", "large", down]
        found["small down"][peer] = lambda boto=boto: [*boto, "down", "small/", many]
        for name in ("large", "small"):
            words = ("up", str(work / name), f"boto-{kind}")
            found[f"{name} up"][peer] = lambda boto=boto, words=words: [*boto, *words]
    return found


def main() -> None:
    """Run everything several times and print one table; ratios are to the fastest peer."""
    runs, size, count = (
        int(word) for word in (*sys.argv[1:], *("3", "1024", "2000")[len(sys.argv) - 1 :])
    )
    install_peers()
    work = Path(tempfile.mkdtemp(prefix="architrave-bench-"))
    try:
        (work / "large").mkdir()
        (work / "small").mkdir()
        with (work / "large/large").open("wb") as file:
            for _ in range(size):
                file.write(os.urandom(1 << 20))
        for number in range(count):
            (work / f"small/file-{number}.deb").write_bytes(os.urandom(SMALL))
        with EmbeddedS3(work / "s3") as s3:
            s3.create_bucket(BUCKET)
            s3.put_file(BUCKET, "large", work / "large/large")
            names = "".join(f"file-{number}.deb\n" for number in range(count))
            (work / "many").mkdir()
            (work / "deps_batch.lst").write_text(names)
            s3.put_file(BUCKET, "small/deps_batch.lst", work / "deps_batch.lst")
            client = s3.client()
            with ThreadPoolExecutor(4) as pool:
                for name in names.split():
                    path = work / "small" / name
                    pool.submit(client.upload_file, str(path), BUCKET, f"small/{name}")
            env = os.environ | s3.environment() | {"PYTHONPATH": str(REPOSITORY)}
            report(run(tasks(work, s3.endpoint, count), runs, env, work))
    finally:
        shutil.rmtree(work)


def run(
    found: dict[str, dict[str, Callable[[], list[str]]]], runs: int, env: dict[str, str], work: Path
) -> dict[str, dict[str, list[tuple[float, float, float]]]]:
    """Measure, the peers of a task one after the other, and that several times."""
    seen: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for _ in range(runs):
        for task, peers in found.items():
            directory = work / task.split()[0]
            for peer, command in peers.items():
                text = stage_out(directory) if (peer, task[-2:]) == ("ours", "up") else ""
                seen.setdefault(task, {}).setdefault(peer, []).append(measure(command(), env, text))
    return seen


def report(seen: dict[str, dict[str, list[tuple[float, float, float]]]]) -> None:
    """Print medians: seconds (processor seconds, peak MiB), and ours against the fastest peer."""
    table: dict[str, dict[str, list[float]]] = {}
    for task, peers in seen.items():
        table[task] = {
            peer: [round(statistics.median(column), 2) for column in zip(*rows, strict=True)]
            for peer, rows in peers.items()
        }
        fastest = min(row[0] for peer, row in table[task].items() if peer != "ours")
        cells = [f"{p} {w:.2f} ({c:.2f}, {m:.0f})" for p, (w, c, m) in table[task].items()]
        print(f"{task:12}", *cells, f"ratio {fastest / table[task]['ours'][0]:.2f}", sep="  ")
    write("transfers", table)


if __name__ == "__main__":
    main()
