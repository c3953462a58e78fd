#!/usr/bin/env -S PATH=${PATH}:/opt/architrave/bin python3
"""A program that saves its state at SIGTERM.

solver NAME SECONDS [CODE]     takes so long to write NAME.checkpoint, then ends with CODE
solver NAME forever            never ends by itself

What it receives is in NAME.signals, a number for each signal. In $TMP_OUTPUT_DIR, under mpirun with
the rank behind NAME; a list of SECONDS, with commas, has one for each rank.
"""

import os
import signal
import sys
import time


def main():
    name, seconds, *code = sys.argv[1:]
    rank = os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("NODE_RANK", ""))
    name = os.path.join(os.environ["TMP_OUTPUT_DIR"], name + rank)
    seconds = seconds.split(",")[int(rank or 0) % len(seconds.split(","))]
    received = []

    def on_signal(number, frame):
        received.append(number)
        with open(f"{name}.signals", "a") as file:
            file.write(f"{number}\n")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    print("ready", name, flush=True)
    while not received:
        time.sleep(0.05)  # pause() may miss a signal that comes right before it
    end = time.monotonic() + (1e6 if seconds == "forever" else float(seconds))
    while time.monotonic() < end:
        print("saving", "x" * 2000, flush=True)  # output must get away meanwhile
        time.sleep(0.1)
    with open(f"{name}.checkpoint", "w") as file:
        file.write("whole\n")
    return int(code[0]) if code else 0


sys.exit(main())
