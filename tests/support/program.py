#!/usr/bin/env -S PATH=${PATH}:/opt/architrave/bin python3
"""The closed-source program of these tests: prints where it runs, then exits as asked.

program meet PORT CODE   every rank writes its file, all wait for each other, all end with CODE
program fail RANK CODE   that rank ends with CODE at once, the others stay
program exit CODE        every rank writes its file and ends with CODE
program hold             every rank writes its file and stays
program last SECONDS CODE    stays so long, then ends with CODE
program deaf SECONDS CODE    the same, and ignores SIGTERM
program die SIGNAL           is killed by a signal
program daemon CODE          leaves a process that holds its output, and ends with CODE
program loud MEGABYTES CODE  writes so much, and ends with CODE
program await SIGNAL CODE    waits for a signal, then exits with CODE
program hog RANK             that rank takes all the memory that there is, the others stay
"""

import json
import os
import resource
import signal
import socket
import sys
import time


def main():
    rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("NODE_RANK", "0")))
    size = int(os.environ.get("OMPI_COMM_WORLD_SIZE", os.environ.get("NODE_COUNT", "1")))
    # The environment of the node on which this rank runs: only a worker's has this one.
    main_address = os.environ.get("AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS", "")
    seen = {
        "rank": rank,
        "size": size,
        "hostname": socket.gethostname(),
        "main": main_address,
        "address": os.environ.get("ARCHITRAVE_ADDRESS") or address_towards(main_address),
        "arguments": sys.argv[1:],
        "env": dict(os.environ),
    }
    if rank == 0 and os.path.exists(hostfile()):
        with open(hostfile()) as file:
            seen["hostfile"] = file.read()
        seen["address"] = seen["address"] or seen["hostfile"].split()[0]
    if os.environ.get("ARCHITRAVE_STDIN"):
        seen["stdin"] = sys.stdin.read()
        seen["limits"] = {
            name: resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))
            for name in ("stack", "core", "nofile")
        }
    result = os.path.join(os.environ["TMP_OUTPUT_DIR"], f"rank-{rank}.json")
    # Whole or not at all: it may be ended here, and half a result is uploaded as it is.
    with open(result + ".part", "w") as file:
        json.dump(seen, file)
    os.rename(result + ".part", result)
    what, *numbers = sys.argv[1:]
    if what == "await":
        signal.pthread_sigmask(signal.SIG_BLOCK, {int(numbers[0])})
    print(f"ready {rank} of {size}", flush=True)
    if what == "meet":
        meet(rank, size, seen["main"], int(numbers[0]))
    if what in ("meet", "exit") or (what == "fail" and rank == int(numbers[0])):
        return int(numbers[-1])
    if what == "hog" and rank == int(numbers[0]):
        hog()
    if what in LAST_ACTS:
        return LAST_ACTS[what](*map(int, numbers))
    while True:
        signal.pause()


def address_towards(other):
    if not other:
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((other, 9))
        return probe.getsockname()[0]


def last(seconds, code):
    time.sleep(seconds)
    return code


def deaf(seconds, code):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return last(seconds, code)


def await_signal(number, code):
    signal.sigwait({number})
    return code


def die(number):
    os.kill(os.getpid(), number)


def daemon(code):
    if os.fork() == 0:
        os.setsid()
        last(600, 0)
    return code


def loud(megabytes, code):
    for _ in range(megabytes << 4):
        print("x" * 65535, flush=True)
    return code


def hog():
    taken = []
    while True:
        taken.append(b"x" * (1 << 24))


LAST_ACTS = {
    "await": await_signal,
    "last": last,
    "deaf": deaf,
    "die": die,
    "daemon": daemon,
    "loud": loud,
}


def hostfile():
    root = os.path.dirname(os.path.dirname(sys.argv[0]))
    return os.environ.get("HOSTFILE") or os.path.join(root, "tmp/hostfile")


def meet(rank, size, main, port):
    """Wait until every rank has come: mpirun ends the others when one fails."""
    if rank:
        with connect(main, port) as connection:
            connection.recv(1)
        return
    with socket.create_server(("", port)) as server:
        others = [server.accept()[0] for _ in range(size - 1)]
        for other in others:
            other.sendall(b"x")
            other.close()


def connect(address, port):
    while True:
        try:
            return socket.create_connection((address, port))
        except ConnectionRefusedError:
            time.sleep(0.05)


sys.exit(main())
