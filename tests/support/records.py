"""Make records of runs as their main nodes would write them, for any number of nodes."""

import math
import random

from agent.core import model
from agent.core.model import Node, Outcome, Span, Topology
from agent.report import run_json

GIB = 1 << 30


def record(nodes=3, *, seconds=60.0, samples=60, outcome=None, seed=1, command=None, **more):
    """Return a run.json: one node started late, one works less, one uses more memory.

    `seconds` is how long the application ran, `samples` how many each node has of it.
    """
    import json

    draw = random.Random(seed)
    topology = Topology(f"job-{seed}", 1, count=nodes)
    begins = 1000.0
    late = {nodes // 2: 12.0} if nodes > 2 else {}
    parts = [
        _node(
            index, begins + late.get(index, draw.uniform(0, 3)), begins + 25, seconds, samples, draw
        )
        for index in range(nodes)
    ]
    text = run_json.run_json(
        topology,
        outcome or Outcome(0),
        command or ["/opt/app", "--input", "data set.txt"],
        parts,
        {"real": seconds, "user": seconds * 2.5, "sys": seconds / 10},
        **more,
    )
    return json.loads(text)


def _node(index, started, launched, seconds, samples, draw):
    fetched, unpacked = started + draw.uniform(3, 6), started + draw.uniform(6, 9)
    exited = launched + seconds
    released = exited + draw.uniform(0.1, 0.5)
    uploaded = released + draw.uniform(1, 4)
    spans = [
        Span(model.FETCH, started, fetched),
        Span(model.UNPACK, fetched, unpacked),
        Span(model.JOIN, unpacked, launched),
        Span(model.RUN, launched, exited),
        Span(model.RELEASE, exited, released),
        Span(model.UPLOAD, released, uploaded),
    ]
    times = [round(seconds * (k + 1) / samples, 3) for k in range(samples)]
    busy = 0.4 if index == 1 else 0.9
    waves = [math.sin(k / samples * 12 + index) for k in range(samples)]
    processors = [round(4 * busy * (0.9 + 0.1 * w) * draw.uniform(0.9, 1), 3) for w in waves]
    resident = [int(GIB * (2 + index % 5 + 3 * k / samples)) for k in range(samples)]
    rates = {
        name: [int(draw.uniform(0, highest) * (1.1 + w)) for w in waves]
        for name, highest in (
            ("read_bytes_per_second", 3e7), ("written_bytes_per_second", 1e7),
            ("received_bytes_per_second", 8e6), ("sent_bytes_per_second", 8e6),
        )
    }  # fmt: skip
    every = seconds / samples
    totals = {
        name.removesuffix("_per_second"): sum(values) * every for name, values in rates.items()
    }
    return run_json.node_record(
        Node(index, f"10.0.{index // 250}.{index % 250 + 4}", 4, "0.1.0"),
        spans,
        fetched=[{"object": "s3://bucket/batch/private.7z", "size": 300 << 20, "sha256": "0" * 64,
                  "checked": ["size"]}],
        files=[
            {"name": "time.log", "size": 900 + index, "sha256": "1" * 64},
            {"name": f"rank-{index}.dat", "size": 5_000_000 + 1000 * index, "sha256": "2" * 64},
        ],
        failed=[],
        peaks={
            "processors": max(processors), "resident_bytes": max(resident), "processes": 5,
            "cpu_seconds": round(sum(processors) * every, 3),
            **{name: max(values) for name, values in rates.items()}, **totals,
        },
        samples={"start": launched, "seconds": times, "processors": processors,
                 "resident_bytes": resident, **rates},
        memory_limit_bytes=16 * GIB,
        memory_total_bytes=32 * GIB,
        processor_limit=4,
    ) | {"unix_minus_monotonic": 1_700_000_000.0 + index * 0.001, "written": uploaded}  # fmt: skip
