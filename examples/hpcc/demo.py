"""Show HPC Challenge as a closed-source program on three nodes, then in the Lambda mode."""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ARCHITRAVE = str(Path(sys.executable).with_name("architrave"))
IMAGE = "architrave:latest"
NODES = 3
VERDICT = "Success=1"


def main() -> int:
    """Run both parts; return 0 if all is right."""
    options = _options()
    image = None if options.no_docker else IMAGE
    os.chdir(options.work)
    try:
        wrong = _batch(image) or _lambda(image)
    except subprocess.CalledProcessError as error:
        wrong = f"cannot run {error.cmd[0]}: it exited with {error.returncode}"
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


def _batch(image: str | None) -> str:
    """Run HPCC on three nodes; return what is wrong, empty if nothing is."""
    heading("A closed-source program, an input, and nothing else")
    program = Path("program")
    _get_program(program, image)
    print(f"{program}: {', '.join(sorted(path.name for path in program.iterdir()))}")
    secret = {"PRIVATE_PASSWD": secrets.token_urlsafe(24)}
    heading("Pack it, and the packages with the libraries that it misses")
    code = _show(["pack", "private", "program"], secret)
    where = ["--image", image] if image else ["--here"]
    code = code or _show(["pack", "deps", "--binary", "program/hpcc", *where], {})
    if code:
        return f"packing exited with {code}, not 0"

    heading(f"AWS Batch on this machine: {NODES} nodes, mpirun, S3")
    results = Path("batch")
    deps = ["--deps", "deps.tar.gz"] if Path("deps.tar.gz").exists() else []
    place = ["--image", image] if image else ["--no-docker"]
    job = ["-e", "PRIVATE_PASSWD", "-e", "APP_BIN=/opt/hpcc-job", "-e", "APP_PARAMS=hpccinf.txt"]
    private = ["--private", "private.7z", *deps, *job, "--results", str(results)]
    code = _show(["local", "run", "--nodes", str(NODES), *place, *private], secret)
    if code:
        return f"the job exited with {code}, not 0"
    output = results / "node-0" / "hpccoutf.txt"
    if not output.is_file():
        return f"{output} is missing"
    text = output.read_text(encoding="utf-8", errors="replace")
    begin = text.find("Begin of Summary section")
    found = [line for line in text[max(begin, 0) :].splitlines() if line.startswith("Success=")]
    print(f"exit code: {code}\nhpccoutf.txt has: {', '.join(found) or 'nothing'}")
    if begin < 0 or found != [VERDICT]:
        return f"{output} does not have {VERDICT}"
    missing = [name for name in ("run.json", "manifest.json") if not (results / name).is_file()]
    return f"{', '.join(missing)} is not among the results" if missing else ""


def _lambda(image: str | None) -> str:
    """Run a command in the Lambda mode; return what is wrong, empty if nothing is."""
    heading("AWS Lambda on this machine: one node, results in a directory")
    results = Path("lambda").absolute()
    results.mkdir()
    env = {
        "EXEC_TYPE": "lambda",
        "ARCHITRAVE_LOG_LEVEL": "error",
        "APP_BIN": "/bin/sh",
        "APP_PARAMS": "-c 'echo Hello from the $EXEC_TYPE mode'",
    }
    if image:
        # Lambda's user isn't root either, and the results are for the invoking user.
        user = [] if os.geteuid() == 0 else ["--user", f"{os.geteuid()}:{os.getegid()}"]
        given = [word for name, value in env.items() for word in ("-e", f"{name}={value}")]
        command = ["docker", "run", "--rm", *user, *given, "-v", f"{results}:/tmp", image]
        code, time_log = _run(command, {}), results / "time.log"
    else:
        env["ARCHITRAVE_ROOT"] = str(results)
        code = _show(["run"], env)
        time_log = results / "tmp" / "time.log"
    if code:
        return f"the Lambda mode exited with {code}, not 0"
    text = time_log.read_text(encoding="utf-8") if time_log.is_file() else ""
    print(f"exit code: {code}\n{time_log}:\n{text.rstrip()}")
    right = "Hello from the lambda mode" in text and "\nreal\t" in text
    return "" if right else f"{time_log} holds not what the program printed"


def _get_program(program: Path, image: str | None) -> None:
    """Make the directory that a user would have: a binary, what starts it, and its input."""
    program.mkdir()
    for name in ("hpcc-job", "hpccinf.txt"):
        shutil.copy(HERE / name, program)
    command = ["sh", "-s"]
    if image is not None:
        command = ["docker", "run", "--rm", "--interactive", "--entrypoint", "sh", image, "-s"]
    binary = program / "hpcc"
    with (
        (HERE / "get-hpcc").open("rb") as script,
        binary.open("wb") as out,
        Path("setup.log").open("ab") as said,
    ):
        subprocess.run(command, stdin=script, stdout=out, stderr=said, check=True)
    binary.chmod(0o755)


def _show(words: list[str], env: dict[str, str]) -> int:
    """Print a command of ours and run it; return its exit code."""
    return _run([ARCHITRAVE, *words], env)


def _run(command: list[str], env: dict[str, str]) -> int:
    """Print a command and run it; return its exit code."""
    words = ["architrave" if word == ARCHITRAVE else word for word in command]
    settings = [
        f"{name}=…" if "PASSWD" in name else f"{name}={shlex.quote(value)}"
        for name, value in env.items()
    ]
    print("$", *settings, shlex.join(words), "\n", flush=True)
    # Not `run`: it kills its child on Ctrl-C, and the cluster needs time to clean up.
    process = subprocess.Popen(command, env=os.environ | env)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


if __name__ == "__main__":
    sys.exit(main())
