"""Time the installation of packages: the agent's, dpkg's and apt's own, and only extracting files.

Each in a fresh container of the image, the ways by turns; seconds are the shell's own inside. The
packages are openssh-server, openssh-client, iproute2, inotify-tools, locales and what they need.
`laid out` runs no script of a package: it shows what those cost. Run by hand:
PYTHONPATH=. .venv/bin/python benchmarks/deps.py [RUNS] [IMAGE]
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from benchmarks.common import write

TAG = "architrave:bench-deps"
PACKAGES = "openssh-server openssh-client iproute2 inotify-tools locales"
DOCKERFILE = f"""FROM {{image}}
RUN apt-get update -qq \\
    && apt-get install -y -qq --download-only --no-install-recommends {PACKAGES} \\
    && mkdir /debs && mv /var/cache/apt/archives/*.deb /debs && rm -rf /var/lib/apt/lists/*
"""
AGENT = (
    "import glob; from agent.staging import packages; "
    "packages.install(glob.glob('/debs/*.deb'), system=True, laid_out='')"
)
WAYS = {
    "dpkg -i": "dpkg -i /debs/*.deb",
    "apt-get install": "apt-get install -y --no-install-recommends /debs/*.deb",
    "architrave": f'/opt/architrave/bin/python3 -I -c "{AGENT}"',
    "laid out": (
        "for deb in /debs/*.deb; do "
        "dpkg-deb --fsys-tarfile $deb | tar -x --keep-directory-symlink -C /; done; ldconfig"
    ),
}
SCRIPT = """
export DEBIAN_FRONTEND=noninteractive
begin=${{EPOCHREALTIME/[^0-9]/}}
{{ {way}; }} >/dev/null 2>/tmp/complaints || {{ cat /tmp/complaints >&2; exit 1; }}
echo $(( (${{EPOCHREALTIME/[^0-9]/}} - begin) / 1000 ))
"""


def main() -> None:
    """Measure every way, one after the other, and that several times."""
    default = ("3", "architrave:test-lambda")
    runs, image = (*sys.argv[1:], *default[len(sys.argv) - 1 :])
    text = DOCKERFILE.format(image=image).encode()
    build = ["docker", "build", "-q", "-t", TAG, "-"]
    subprocess.run(build, input=text, check=True, stdout=subprocess.DEVNULL)
    seen: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(int(runs)):
        for name, way in WAYS.items():
            seen[name].append(seconds(way))
    medians = {name: statistics.median(times) for name, times in seen.items()}
    for name, median in medians.items():
        print(f"{name:16} {median:6.2f} s  {median / medians['dpkg -i']:5.2f} x dpkg -i")
    write("deps", medians)


def seconds(way: str) -> float:
    """Return how long a way takes in a fresh container."""
    words = ["docker", "run", "--rm", "--entrypoint", "bash", TAG, "-c", SCRIPT.format(way=way)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout) / 1000


if __name__ == "__main__":
    main()
