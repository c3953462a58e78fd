"""Plot a run with pygal: its timeline and curves, as SVG that the page's own styles colour."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent.core import units
from agent.core.model import PHASES, RUN
from agent.report.reader import Machine, Run

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

# Of the drawing, in its own units: the page scales it to the width of a column.
_WIDTH, _HEIGHT, _FONT = 560, 230, 12
_LABELS_WIDTH = 88
# So many nodes have a line, or a labelled row, each.
FEW, ROWS = 8, 24
_THIN = 2
# A run of at least this share of the time leaves no space for what is before and after it.
_LONG_RUN = 0.7
_BINS = 200
# The band of many nodes, as quantiles.
_LOW, _HIGH = 0.1, 0.9
# A limit is near when the highest value is at least this share of it.
_NEAR = 0.05
_UNUSED = ("defs", "desc", "title")
_MIN_WIDTH = 0.05
_DECIMALS = re.compile(r"-?\d+\.\d+")


@dataclass(frozen=True)
class Measure:
    """One kind of curve: the name of its samples, its title, whether it counts bytes."""

    name: str
    title: str
    unit: str

    def scale(self, peak: float) -> tuple[str, float]:
        """Return the unit of the axis for values up to `peak`, and how much of ours is one."""
        if not self.unit:
            return "", 1.0
        name, scale = units.size_unit(peak)
        return name + self.unit.removeprefix("B"), scale

    def text(self, value: float) -> str:
        """Return a value with its unit."""
        if not self.unit:
            return units.three_digits(value)
        return units.size(value) + self.unit.removeprefix("B")


MEASURES = (
    Measure("processors", "Processors in use", ""),
    Measure("resident_bytes", "Memory", "B"),
    Measure("read_bytes_per_second", "Disk, read", "B/s"),
    Measure("written_bytes_per_second", "Disk, written", "B/s"),
    Measure("received_bytes_per_second", "Network, received", "B/s"),
    Measure("sent_bytes_per_second", "Network, sent", "B/s"),
)


@dataclass
class Chart:
    """A drawing with its legend: `legend` are pairs of a style's class and a text."""

    title: str
    svg: str
    legend: list[tuple[str, str]] = field(default_factory=list)


Points = list[tuple[float, float]]


def timelines(run: Run) -> list[Chart]:
    """Draw all nodes' phases; what is before and after a long run once more, large enough."""
    found = [timeline(run, run.seconds)]
    runs = [stage for node in run.nodes for stage in node.stages if stage.phase == RUN]
    if runs:
        begun, end_of_runs = max(stage.start for stage in runs), min(stage.end for stage in runs)
        if end_of_runs - begun >= _LONG_RUN * run.seconds:
            edge = 0.05 * max(begun, run.seconds - end_of_runs)
            found.append(_timeline(run, "Before the run, {unit}", 0.0, begun + edge))
            found.append(_timeline(run, "After the run, {unit}", end_of_runs - edge, run.seconds))
    return found


def timeline(run: Run, end: float) -> Chart:
    """Draw all nodes' phases from the first node's start to an instant."""
    origin = "it" if run.count == 1 else "the first node"
    return _timeline(run, f"Timeline, {{unit}} since {origin} began", 0.0, end)


def _timeline(run: Run, title: str, begin: float, end: float) -> Chart:
    """Draw a bar for each node, main first, for the time between two instants."""
    import pygal

    order = sorted(run.nodes, key=lambda node: (node.index != run.main, node.index))
    many = len(order) > ROWS
    height = 44 + len(order) * (_THIN if many else max(14, 26 - len(order) // 2))
    # Names of some nodes: there is space for one in 16 thin rows.
    labels = [node.name if not many or i % 16 == 0 else "" for i, node in enumerate(order)]
    unit, scale = clock(end - begin)
    chart = pygal.HorizontalStackedBar(
        **_options(max(round(height), 90)), margin_left=_LABELS_WIDTH, spacing=0 if many else 6,
        value_formatter=lambda value: _tick(value + begin / scale),
        range=(0, max(end - begin, 1e-3) / scale), x_labels=labels[::-1],
    )  # fmt: skip
    phases = [phase for phase in PHASES if phase in run.phases]
    rows = order[::-1]  # the library draws upwards
    chart.add("", [_within(0.0, node.started, begin, end) / scale for node in rows])
    for phase in phases:
        chart.add(phase, [_in_phase(node, phase, begin, end) / scale for node in rows])
    classes = ["before", *(f"phase-{phase}" for phase in phases)]
    legend = [(f"phase-{phase}", phase) for phase in phases]
    title = title.format(unit=unit)
    return Chart(title, _svg(chart, classes, title, thin=many), legend)


def _within(start: float, stop: float, begin: float, end: float) -> float:
    """Return how much of a time is between two instants."""
    return max(0.0, min(stop, end) - max(start, begin))


def _in_phase(node: Machine, phase: str, begin: float, end: float) -> float:
    stages = (stage for stage in node.stages if stage.phase == phase)
    return sum(_within(stage.start, stage.end, begin, end) for stage in stages)


def tops(runs: Iterable[Run]) -> dict[str, float]:
    """Return the highest value of each measure in some runs, so that they share their scales."""
    found = dict.fromkeys((one.name for one in MEASURES), 0.0)
    for run in runs:
        for node in run.sampled:
            for name in found:
                found[name] = max(found[name], *node.samples.get(name) or [0.0])
    return found


def curves(run: Run, peak: dict[str, float] | None = None) -> list[Chart]:
    """Draw what the nodes used while the application ran; nothing if there are no samples."""
    if not run.sampled:
        return []
    peak = peak or tops([run])
    measured = [one for one in MEASURES if any(one.name in node.samples for node in run.sampled)]
    return [_curve(run, one, peak[one.name]) for one in measured]


def _curve(run: Run, measure: Measure, peak: float) -> Chart:
    import pygal

    nodes = [node for node in run.sampled if node.samples.get(measure.name)]
    limit = max((node.limits.get(measure.name, 0.0) for node in nodes), default=0.0)
    # One far above would press the curves flat: it is drawn at the edge, and labelled so.
    drawn = bool(limit) and (measure.name == "processors" or peak >= _NEAR * limit)
    top = max(peak, limit if drawn else 0.0) or 1.0
    unit, scale = measure.scale(top)
    _, second = clock(run.seconds)
    begin, end = _span(nodes)
    chart = pygal.XY(
        **_options(_HEIGHT), include_x_axis=True, range=(0, 1.06 * top / scale), margin_left=44,
        xrange=(begin / second, end / second), value_formatter=_tick,
        x_value_formatter=_tick,
    )  # fmt: skip
    series = _series(measure, nodes)
    if limit:
        text = f"limit: {measure.text(limit)}" + ("" if drawn else ", far above")
        level = limit if drawn else 1.06 * top
        series.append(("limit", text, [(begin, level), (end, level)]))
    at, note = _peak(measure, nodes)
    series.append(("peak", note, [at] if at[1] else []))
    for style, _, points in series:
        chart.add(style, [(x / second, y / scale) for x, y in points], show_dots=style == "peak")
    title = f"{measure.title}, {unit}" if unit else measure.title
    svg = _svg(chart, [style for style, _, _ in series], f"{title}; {note}")
    return Chart(title, svg, [(style, text) for style, text, _ in series])


def _span(nodes: list[Machine]) -> tuple[float, float]:
    """Return when the samples of some nodes begin and end."""
    ends = (node.sampled_from + node.samples["seconds"][-1] for node in nodes)
    return min(node.sampled_from for node in nodes), max(ends)


def _series(measure: Measure, nodes: list[Machine]) -> list[tuple[str, str, Points]]:
    """Return lines with their styles and texts."""
    if len(nodes) <= FEW:
        lines = [_points(node, measure.name) for node in nodes]
        return [
            (f"node-{i % FEW}", node.name, points)
            for i, (node, points) in enumerate(zip(nodes, lines, strict=True))
        ]
    begin, end = _span(nodes)
    count = min(_BINS, max(len(node.samples["seconds"]) for node in nodes))
    width = (end - begin) / count
    moments = [begin + (k + 0.5) * width for k in range(count)]
    table = {node.name: _binned(node, measure.name, begin, width, count) for node in nodes}
    means = {node.name: node.mean(measure.name) for node in nodes}
    lowest, highest = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    middle: Points = []
    low: Points = []
    high: Points = []
    for k, at in enumerate(moments):
        values = sorted(value for row in table.values() if (value := row[k]) is not None)
        if values:
            middle.append((at, _quantile(values, 0.5)))
            low.append((at, _quantile(values, _LOW)))
            high.append((at, _quantile(values, _HIGH)))

    def line(name: str) -> Points:
        return [(at, y) for at, y in zip(moments, table[name], strict=True) if y is not None]

    return [
        ("band", f"80 % of {len(nodes)} nodes", low + high[::-1]),
        ("node-0", "median node", middle),
        ("node-1", f"{highest}: the highest mean, {measure.text(means[highest])}", line(highest)),
        ("node-2", f"{lowest}: the lowest, {measure.text(means[lowest])}", line(lowest)),
    ]


def _quantile(values: Sequence[float], share: float) -> float:
    return values[round(share * (len(values) - 1))]


def _points(node: Machine, name: str) -> Points:
    """Return a node's curve: a sample covers the time before it."""
    times, values = node.samples["seconds"], node.samples[name]
    start = node.sampled_from
    if len(times) > 2 * _BINS:
        width = times[-1] / _BINS
        binned = _binned(node, name, start, width, _BINS)
        return [(start + (k + 0.5) * width, y) for k, y in enumerate(binned) if y is not None]
    first = [(start, values[0])] if values else []
    return first + [(start + at, value) for at, value in zip(times, values, strict=False)]


def _binned(node: Machine, name: str, begin: float, width: float, count: int) -> list[float | None]:
    """Return a node's curve as means of equal times, None where it has no samples."""
    times, values = node.samples["seconds"], node.samples[name]
    shift = node.sampled_from - begin
    found: list[float | None] = []
    for k in range(count):
        first = bisect_right(times, k * width - shift)
        end = bisect_right(times, (k + 1) * width - shift)
        if (k + 1) * width <= shift or first >= len(values):
            found.append(None)
        elif end > first:
            found.append(sum(values[first:end]) / (end - first))
        else:
            found.append(values[first])
    return found


def _peak(measure: Measure, nodes: list[Machine]) -> tuple[tuple[float, float], str]:
    """Return where the highest value is drawn, and what it was, as the record has it."""
    node = max(nodes, key=lambda one: one.peaks.get(measure.name) or max(one.samples[measure.name]))
    values = node.samples[measure.name]
    at = values.index(max(values))
    moment = node.sampled_from + node.samples["seconds"][at]
    highest = node.peaks.get(measure.name) or values[at]
    if not highest:
        return (moment, 0.0), "peak: nothing at all"
    limit = node.limits.get(measure.name)
    of_limit = f" of {measure.text(limit)}" if limit else ""
    when = f"{node.name}, at {units.duration(moment)}"
    return (moment, values[at]), f"peak: {measure.text(highest)}{of_limit} ({when})"


def _tick(value: float) -> str:
    return f"{value:.4g}"


def clock(seconds: float) -> tuple[str, float]:
    """Return the unit for times of a run, and the seconds in it."""
    if seconds < 180:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds < 3 * 3600 else ("hours", 3600.0)


def _options(height: int) -> dict[str, Any]:
    """Return what all charts have in common: no script, no styles, no legend of the library's."""
    from pygal.style import Style

    style = Style(font_family="inherit", label_font_size=_FONT, major_label_font_size=_FONT)
    return {
        "width": _WIDTH, "height": height, "style": style, "js": (), "css": (), "no_prefix": True,
        "show_legend": False, "show_dots": False, "margin": 6, "max_scale": 6,
        "print_values": False, "dots_size": 4,
    }  # fmt: skip


def _svg(chart: Any, classes: list[str], title: str, *, thin: bool = False) -> str:
    """Return a chart's SVG without its own styles, script and tooltips; series by our classes."""
    from xml.etree.ElementTree import tostring

    root = chart.render_tree()
    root.set("class", "chart thin" if thin else "chart")
    root.attrib.pop("id", None)
    for series in root.iter("g"):
        names = series.get("class", "").split()
        if "series" in names:
            number = next(int(n.removeprefix("serie-")) for n in names if n.startswith("serie-"))
            series.set("class", f"series {classes[number]}")
    _clean(root)
    root.set("role", "img")
    root.set("aria-label", title)
    return str(tostring(root, encoding="unicode"))


def _clean(element: Element) -> None:
    """Take out what only the library's own styles and script use, and round its numbers."""
    for child in list(element):
        if not isinstance(child.tag, str) or child.tag in _UNUSED or _invisible(child):
            element.remove(child)
            continue
        _clean(child)
        if child.tag == "g" and len(child) == 0:
            element.remove(child)
    for name, value in list(element.attrib.items()):
        if name in ("rx", "ry") or not value:
            del element.attrib[name]
        elif name not in ("viewBox", "class"):
            element.set(name, _DECIMALS.sub(lambda found: f"{float(found[0]):.1f}", value))


def _invisible(element: Element) -> bool:
    if element.tag == "rect":
        return float(element.get("width", 0)) < _MIN_WIDTH
    return element.get("class") == "plot tooltip-overlay" or (
        element.tag == "text" and not element.text
    )
