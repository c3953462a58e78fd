"""Show the program: HPC Challenge as a closed program on three nodes, then the Lambda mode."""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from pack import PackError, fetch, pack_private

from agent.local import debs

REPOSITORY = Path(__file__).parents[2]
IMAGE = "architrave:latest"
NODES = 3
VERDICT = "Success=1"


def main() -> int:
    """Run both parts; return 0 if all is right."""
    options = _options()
    image = None if options.no_docker else IMAGE
    with tempfile.TemporaryDirectory(prefix="architrave-demo-") as directory:
        try:
            wrong = _batch(Path(directory), options.work, image) or _lambda(options.work, image)
        except PackError as error:
            wrong = str(error)
        except subprocess.CalledProcessError as error:
            wrong = f"cannot run {error.cmd[0]}: it ended with {error.returncode}"
    heading("Verdict")
    print(wrong or "all is right")
    return 1 if wrong else 0


def heading(text: str) -> None:
    """Print what comes next."""
    print(f"\n== {text}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-docker", action="store_true")
    parser.add_argument("--work", type=Path, required=True, help="where results and the log go")
    return parser.parse_args()


def _batch(directory: Path, work: Path, image: str | None) -> str:
    """Run HPCC on three nodes; return what is wrong, empty if nothing is."""
    heading("Pack a closed program")
    packages = fetch(directory, image, work / "setup.log")
    private, deps = directory / "private.7z", directory / "deps.tar.gz"
    password = secrets.token_urlsafe(24)
    names = pack_private(private, directory / "hpcc", password)
    debs.pack(packages, deps)
    print(f"private.7z   {_size(private)}, encrypted: {', '.join(names)}")
    print(f"deps.tar.gz  {_size(deps)}: {', '.join(package.name for package in packages)}")

    heading(f"AWS Batch on this machine: {NODES} nodes, mpirun, S3")
    results = work / "batch"
    code = _show(
        [sys.executable, "-m", "agent", "local", "run", "--nodes", str(NODES)]
        + (["--image", image] if image else ["--no-docker"])
        + ["--private", str(private), "--deps", str(deps), "--results", str(results)]
        + ["-e", "PRIVATE_PASSWD", "-e", "APP_BIN=/opt/hpcc-job", "-e", "APP_PARAMS=hpccinf.txt"],
        {"PRIVATE_PASSWD": password},
    )
    if code:
        return f"the job ended with {code}, not 0"
    output = results / "node-0" / "hpccoutf.txt"
    if not output.is_file():
        return f"{output} is missing"
    text = output.read_text(encoding="utf-8", errors="replace")
    begin = text.find("Begin of Summary section")
    found = [line for line in text[max(begin, 0) :].splitlines() if line.startswith("Success=")]
    print(f"exit code: {code}\nhpccoutf.txt says: {', '.join(found) or 'nothing'}")
    if begin < 0 or found != [VERDICT]:
        return f"{output} does not say {VERDICT}"
    missing = [name for name in ("run.json", "manifest.json") if not (results / name).is_file()]
    return f"{', '.join(missing)} is not among the results" if missing else ""


def _lambda(work: Path, image: str | None) -> str:
    """Run a command in the Lambda mode; return what is wrong, empty if nothing is."""
    heading("AWS Lambda on this machine: one node, results in a directory")
    results = work / "lambda"
    results.mkdir()
    env = {
        "EXEC_TYPE": "lambda",
        "ARCHITRAVE_LOG_LEVEL": "error",
        "APP_BIN": "/bin/sh",
        "APP_PARAMS": "-c 'echo Hello from the $EXEC_TYPE mode'",
    }
    if image:
        # Lambda's user isn't root either, and the results are for the one who asked.
        user = [] if os.geteuid() == 0 else ["--user", f"{os.geteuid()}:{os.getegid()}"]
        given = [word for name, value in env.items() for word in ("-e", f"{name}={value}")]
        command = ["docker", "run", "--rm", *user, *given, "-v", f"{results}:/tmp", image]
        code, time_log = _show(command, {}), results / "time.log"
    else:
        env["ARCHITRAVE_ROOT"] = str(results)
        code = _show([sys.executable, "-m", "agent", "run"], env)
        time_log = results / "tmp" / "time.log"
    if code:
        return f"the Lambda mode ended with {code}, not 0"
    text = time_log.read_text(encoding="utf-8") if time_log.is_file() else ""
    print(f"exit code: {code}\n{time_log}:\n{text.rstrip()}")
    right = "Hello from the lambda mode" in text and "\nreal\t" in text
    return "" if right else f"{time_log} holds not what the program printed"


def _show(command: list[str], env: dict[str, str]) -> int:
    """Print a command and run it; return its exit code."""
    words = ["python" if word == sys.executable else word for word in command]
    settings = [
        f"{name}=…" if "PASSWD" in name else f"{name}={shlex.quote(value)}"
        for name, value in env.items()
    ]
    print("$", *settings, shlex.join(words), "\n", flush=True)
    # Not `run`: it kills its child on Ctrl-C, and the cluster needs time to clean up.
    process = subprocess.Popen(command, env=os.environ | env, cwd=REPOSITORY)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
