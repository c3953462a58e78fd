"""The report of a run: the page, the text, the comparison, the advice."""

import copy
import json
import re
from html.parser import HTMLParser

import jsonschema
import pytest

from agent.core.errors import AgentError
from agent.core.model import AGENT, Outcome
from agent.report import charts, page
from agent.report import text as report_text
from agent.report.advice import advice
from agent.report.reader import outcome, read
from agent.report.schema import SCHEMA
from tests.support.records import record

FAILED = Outcome(3, cause="application exited with 3", hint="see time.log")
HOSTILE = "<script>alert(1)</script>\"'&\x1b[31m\x07\ud800"


class Page(HTMLParser):
    """What a browser would see: tags with attributes, the text, tables as rows of cells."""

    VOID = ("meta", "br", "path", "rect", "circle")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


def html(run):
    return page.page(read(run))


def check_self_contained(text):
    """Fail if anything of a page is a script or an external resource."""
    seen = Page(text)
    assert seen.open == []
    assert not seen.count("script") and not seen.count("link") and not seen.count("img")
    for _, attributes in seen.tags:
        assert not {"src", "href", "xlink:href", "srcset"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'<]*", text))
    # Names of XML, which are never fetched.
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert "@import" not in text and "url(" not in text
    return seen


@pytest.mark.parametrize("nodes", [1, 3, 9, 256])
@pytest.mark.parametrize("outcome_", [Outcome(0), FAILED], ids=["good", "failed"])
def test_page_is_self_contained(nodes, outcome_):
    """No script, no font, no picture, no address: it works from a file, for any number of nodes."""
    check_self_contained(html(record(nodes, outcome=outcome_, last_lines=["the end"])))


def test_page_has_everything_about_the_run():
    """The outcome first, then cause and the log's tail, phases, command, files with their sizes."""
    run = record(3, outcome=FAILED, last_lines=["step 1", "no convergence"])
    seen = Page(html(run)).text
    assert outcome(read(run)) in seen
    for text in (FAILED.cause, FAILED.hint, "no convergence"):
        assert text in seen
    assert "/opt/app --input 'data set.txt'" in seen
    assert "node-2/rank-2.dat 4.77 MiB" in seen
    for phase in ("fetch", "unpack", "join", "run", "release", "upload"):
        assert phase in seen
    assert "10.0.0.6" in seen


def test_every_node_has_its_line_and_every_limit():
    """Few nodes: a line each, the peak with its node, and the limit, all named without a script."""
    run = read(record(3))
    drawn = {chart.title: chart for chart in charts.curves(run)}
    assert len(drawn) == 6
    memory = drawn["Memory, GiB"]
    *nodes, limit, peak = [text for _, text in memory.legend]
    assert nodes == ["main", "worker 1", "worker 2"] and "16 GiB" in limit
    assert all(value in peak for value in ("6.95 GiB", "16 GiB", "worker 2")), peak
    for style, _ in memory.legend:
        assert f'class="series {style}"' in memory.svg
    assert any(re.search(r"\b4$", text) for _, text in drawn["Processors in use"].legend)


def test_many_nodes_are_a_band_with_the_extremes_named():
    run = read(record(40))
    busy = charts.curves(run)[0]
    band, _, _, lowest, *_ = [text for _, text in busy.legend]
    assert re.findall(r"\d+", band) == ["80", "40"]
    assert re.search(r"worker 1\b.* 1\.\d", lowest)
    assert busy.svg.count("<path") < 30


def test_timeline_has_every_node():
    """A bar for each node, also when the run is so long that the rest is drawn once more."""
    for nodes in (3, 256):
        drawn = charts.timelines(read(record(nodes, seconds=3600)))
        titles = [chart.title.partition(",")[0] for chart in drawn]
        assert titles == ["Timeline", "Before the run", "After the run"]
        part = drawn[0].svg.partition('class="series phase-run"')[2].partition('class="series')[0]
        assert part.count("<rect") == nodes
        before = (
            drawn[1].svg.partition('class="series phase-join"')[2].partition('class="series')[0]
        )
        assert before.count("<rect") == nodes


def test_hundreds_of_nodes_stay_small():
    """256 nodes with an hour of samples each: below 1 MB, and the table of them is folded."""
    text = html(record(256, seconds=3600, samples=600))
    assert len(text.encode()) < 1_000_000
    seen = Page(text)
    assert "All 256 nodes" in seen.text and seen.count("details") >= 2
    assert "worker 128 12.0 s" in seen.text  # it started late


def test_hostile_text_is_only_text():
    """Whatever a command, a file's name or a line of output contains, the page shows it as text."""
    ended = Outcome(1, AGENT, cause=HOSTILE, hint=HOSTILE)
    lines = [HOSTILE, "</pre></style>"]
    run = record(3, command=["/bin/echo", HOSTILE], outcome=ended, last_lines=lines)
    node = run["nodes"][1]
    node["address"] = node["files"][0]["name"] = node["fetched"][0]["object"] = HOSTILE
    node["failed"] = [HOSTILE]
    run["job"] = HOSTILE
    for made in (html(run), page.comparison(read(run), read(run))):
        seen = check_self_contained(made)
        assert "<script>alert(1)</script>" in seen.text
        assert "\x1b" not in made and made.encode()
    for made in (report_text.text(read(run)), report_text.comparison(read(run), read(run))):
        assert "\x1b" not in made and "\x07" not in made and made.encode()


@pytest.mark.parametrize("nodes", [1, 3, 256])
@pytest.mark.parametrize("long", [False, True])
def test_text_fits_a_terminal(nodes, long):
    """At most 80 columns, however long names are, and the same text as on the page."""
    run = record(nodes, outcome=FAILED, last_lines=["x" * 500, "a\tb"])
    if long:
        run["command"] = ["/opt/" + "y" * 300, "ein langes Wort " * 20]
        run["job"] = "j" * 200
        run["nodes"][0]["files"][0] |= {"name": "f" * 300, "size": 10**13}
    made = report_text.text(read(run))
    assert max(map(len, made.splitlines())) <= 80
    assert " ".join(outcome(read(run)).split()) in " ".join(made.split()) and "main " in made
    both = report_text.comparison(read(run), read(record(2)))
    assert max(map(len, both.splitlines())) <= 80


def test_command_is_exact():
    """Blanks, quotes and newlines of an argument are there as the shell would need them."""
    run = record(1, command=["/bin/sh", "-c", "echo 'a   b'\necho c"])
    exact = """/bin/sh -c 'echo '"'"'a   b'"'"'\necho c'"""
    assert read(run).command == exact
    assert exact in "".join(Page(html(run)).texts)
    assert exact.replace("\n", "\n  ") in report_text.text(read(run))


def test_comparison_has_both():
    """Side by side: outcomes, figures with their change, curves with a common scale."""
    first, second = read(record(3)), read(record(3, seconds=120, outcome=FAILED))
    seen = check_self_contained(page.comparison(first, second)).text
    assert "The job succeeded" in seen and "The job failed" in seen
    assert "application 60 s 2 min +100 %" in seen
    assert "First: Memory, GiB" in seen and "Second: Memory, GiB" in seen
    assert "+100 %" in report_text.comparison(first, second)


def test_comparison_with_a_run_that_has_nothing():
    """One that never ran its application beside one that did."""
    nothing = record(1, outcome=Outcome(66, AGENT, cause="cannot fetch s3://b/k: gone"))
    nothing["nodes"][0] |= {"phases": [], "samples": {}, "peaks": {}, "files": [], "fetched": []}
    for made in (html(nothing), page.comparison(read(nothing), read(record(2)))):
        assert "cannot fetch s3://b/k: gone" in check_self_contained(made).text
    assert "cannot fetch" in report_text.text(read(nothing))


def test_record_of_before_still_reads():
    """One without the newer fields makes a page with what it has."""
    run = record(3)
    del run["node_count"]
    for node in run["nodes"]:
        del node["written"], node["processor_limit"], node["memory_total_bytes"]
        node["phases"][-1]["end"] = None
        kept = ("seconds", "processors", "resident_bytes")
        node["samples"] = {name: node["samples"][name] for name in kept}
    check_self_contained(html(run))
    assert len(charts.curves(read(run))) == 2


def test_lost_node_is_named():
    run = record(3, outcome=Outcome(75, AGENT, cause="cannot reach worker 2: silent"))
    del run["nodes"][2]
    assert read(run).missing == ["worker 2"]
    assert "No record was received from: worker 2" in Page(html(run)).text


def with_curve(values):
    """Return a record whose curve of processors is this one."""
    run = record(1)
    run["nodes"][0]["samples"]["processors"] = values
    return run


@pytest.mark.parametrize(
    "wrong",
    [None, [], {}, {"schema": "architrave-run/1"}, {"schema": "other"},
     {**record(1), "nodes": [{"index": "x"}]}, {**record(1), "exit": None}, with_curve([1.0]),
     with_curve([float("inf")] * 60)],
)  # fmt: skip
def test_what_is_no_record_is_refused(wrong):
    with pytest.raises(AgentError) as caught:
        read(wrong)
    assert caught.value.code == 65 and caught.value.hint


def test_outcome_in_one_sentence():
    cases = {
        "memory": Outcome(137, signal=9, out_of_memory=True),
        "signal 11": Outcome(139, signal=11),
        "cannot fetch it": Outcome(69, AGENT, cause="cannot fetch it"),
    }
    for named, ended in cases.items():
        sentence = outcome(read(record(2, outcome=ended)))
        assert named in sentence and str(ended.code) in sentence
        assert sentence.count("\n") == 0 and sentence.endswith(".")
    assert not any(named in outcome(read(record(2, outcome=Outcome(0)))) for named in cases)


def slow(phase):
    """Return what is advised when a phase takes 500 s more on every node."""
    run = record(3)
    for node in run["nodes"]:
        number = next(i for i, one in enumerate(node["phases"]) if one["phase"] == phase)
        for later in node["phases"][number + 1 :]:
            later["start"] += 500
        for later in node["phases"][number:]:
            later["end"] += 500
        node["written"] += 500
    return advice(read(run))[0]


@pytest.mark.parametrize(
    ("phase", "pattern"),
    [
        ("fetch", r"Fetch\b.* 8 min \d+ s, \d+ % .*\b300 MiB .*\d+ KiB/s .*\b(main|worker \d)\b"),
        ("unpack", r"Unpack\b.* 8 min .*\b300 MiB .*\b(main|worker \d)\b.*-mx1\b"),
        ("join", r"Join\b.* 8 min .*\bworker 1\b"),
        ("run", r"\(run\).* 9 min 20 s.* 34 % on worker 1"),
        ("release", r"Release\b.* 8 min .*\b(main|worker \d)\b"),
        (
            "upload",
            r"Upload\b.* 8 min .*\b4.77 MiB .*ARCHITRAVE_OUTPUT_EXCLUDE.* node-2/rank-2.dat\b",
        ),
    ],
)
def test_advice_for_each_phase(phase, pattern):
    """The slowest phase with its figures, and what would help with that one."""
    found = slow(phase)
    assert re.search(pattern, found), found


def test_late_node_is_named():
    """When all waited for a node that started late, it is named, with how late it was."""
    run = record(3)
    for node in run["nodes"]:
        for one in node["phases"]:
            if node["index"] == 1 and one["phase"] in ("fetch", "unpack"):
                one["start"] += 300
                one["end"] += 300
            elif one["phase"] == "join":
                one["start"] += 300 if node["index"] == 1 else 0
                one["end"] += 300
            elif one["start"] >= 1025:
                one["start"] += 300
                one["end"] += 300
        node["written"] += 300
    found = advice(read(run))[0]
    assert re.search(r"Join\b.* 5 min .*\bworker 1\b.* 5 min \d+ s .*\bmain\b", found), found


@pytest.mark.parametrize(
    ("busy", "memory", "named"),
    [(0.2, 2, "fewer"), (3.9, 2, "more"), (3.9, 15, "16 GiB")],
)
def test_advice_on_the_run(busy, memory, named):
    """Idle processors, busy ones, memory near its limit: each has its own advice."""
    run = record(2)
    for node in run["nodes"]:
        node["samples"]["processors"] = [busy] * 60
        node["samples"]["read_bytes_per_second"] = node["samples"]["sent_bytes_per_second"] = [
            0
        ] * 60
        node["peaks"]["resident_bytes"] = memory << 30
    found = advice(read(run))[0]
    assert named in found and re.search(r"\d+ %", found)


def strict(schema):
    """Return the schema without any fields that it doesn't describe."""
    schema = copy.deepcopy(schema)

    def close(one):
        if isinstance(one, dict):
            if "properties" in one:
                one["additionalProperties"] = False
                assert one["description"] if "title" not in one else True
            for inner in one.values():
                close(inner)

    close(schema)
    return schema


def test_schema_describes_records():
    """The schema is one, and a record as the main node writes it has every field from it."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    run = json.loads(json.dumps(record(3, outcome=FAILED, last_lines=["end"])))
    jsonschema.validate(run, strict(SCHEMA))
    for field in ("schema", "exit", "nodes", "command"):
        broken = {name: value for name, value in run.items() if name != field}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, SCHEMA)
