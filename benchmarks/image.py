"""Weigh images and what is in the agent's directory, and time how the agent starts in each.

The start is `architrave exec -- true` from a shell in a container that is there already, so that
Docker's own time doesn't count; the images take turns. The directory is that of the first image.
Run by hand: PYTHONPATH=. .venv/bin/python benchmarks/image.py IMAGE [OTHER IMAGE…]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack

from benchmarks.common import write

ROUNDS = 15
DIRECTORY = "/opt/architrave/"
START = """
while read -r _; do
    begin=${EPOCHREALTIME/[^0-9]/}
    /opt/architrave/bin/architrave exec -- true
    end=${EPOCHREALTIME/[^0-9]/}
    echo $((end - begin))
done
"""


class Shell:
    """A container that starts the agent as often as it is asked."""

    def __init__(self, image: str, stack: ExitStack) -> None:
        command = ["docker", "run", "--rm", "-i", "--init", "--entrypoint", "bash", image]
        self.process = stack.enter_context(
            subprocess.Popen(
                [*command, "-c", START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )

    def milliseconds(self) -> float:
        """Start the agent once."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline()) / 1000


def starts(images: list[str]) -> dict[str, float]:
    """Return the median start of each image in ms."""
    with ExitStack() as stack:
        shells = {image: Shell(image, stack) for image in images}
        for shell in shells.values():
            shell.milliseconds()  # from the disk
        found: dict[str, list[float]] = {image: [] for image in images}
        for _ in range(ROUNDS):
            for image, shell in shells.items():
                found[image].append(shell.milliseconds())
    return {image: round(statistics.median(each), 1) for image, each in found.items()}


def saved(image: str) -> float:
    """Return the size of an image as it is sent, in MB."""
    save = subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE)
    assert save.stdout is not None
    with save:
        size = sum(len(chunk) for chunk in iter(lambda: save.stdout.read(1 << 20), b""))
    return round(size / 1e6, 1)


def part_of(path: str) -> str:
    """Return the part of the directory that a file counts for."""
    first, _, rest = path.partition("/")
    if first == "lib" and rest.startswith("python"):
        inner = rest.split("/")[1:]
        if inner[0] != "dist-packages":
            return "standard library"
        if inner[1].endswith(".dist-info"):
            return "packages' metadata and licenses"
        return f"package {inner[1].partition('.')[0]}"
    return "licenses of Debian's packages" if first == "share" else path


def parts(image: str) -> dict[str, float]:
    """Return what each part of the directory weighs in MB, heaviest first."""
    command = ["find", DIRECTORY, "-type", "f", "-printf", "%s %P\n"]
    words = ["docker", "run", "--rm", "--entrypoint", command[0], image, *command[1:]]
    listed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    sizes: Counter[str] = Counter()
    for line in listed.splitlines():
        size, _, path = line.partition(" ")
        sizes[part_of(path)] += int(size)
        sizes["in all"] += int(size)
    return {name: round(size / 1e6, 2) for name, size in sizes.most_common()}


def main() -> None:
    """Print everything as one JSON value, and keep it."""
    images = sys.argv[1:]
    if not images:
        raise SystemExit("cannot measure: no image is named\nhint: benchmarks/image.py IMAGE")
    figures = {
        "start_ms": starts(images),
        "saved_mb": {image: saved(image) for image in images},
        "directory_mb": parts(images[0]),
    }
    print(json.dumps(figures, indent=1))
    write("image", figures)


if __name__ == "__main__":
    main()
