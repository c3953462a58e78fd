"""Write the page of faults from the list of cells and the tests' results.

scripts/test leaves it in build/faults.md, and docs/reference/faults.md is a copy of that.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from tests.faults.matrix import BY_NAME, CELLS

_PROPERTY = "cell"
_HEAD = """# Faults, and how a job survives them

Made by the tests: `scripts/test` leaves this page in `build/faults.md`. Each fault is done from
outside to real processes or containers. Every test checks that all nodes ended in time, the exit
code, that results are on S3 or named as missing, that one line gives cause and node, and that
nothing is left behind, as far as the fault leaves these to the agent. B is five heartbeats, the
grace period, and the upload of what there is.
"""


class Page:
    """Collects the results of tests that carry the mark `cell`."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.bad: dict[str, list[str]] = defaultdict(list)
        self.skipped: dict[str, int] = defaultdict(int)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item):
        """Give the report the names of the item's cells: with workers, it alone gets here."""
        report = (yield).get_result()
        for mark in item.iter_markers("cell"):
            report.user_properties += [(_PROPERTY, name) for name in mark.args]

    def pytest_collection_modifyitems(self, items):
        """Refuse a name that no cell has."""
        for item in items:
            for mark in item.iter_markers("cell"):
                if wrong := set(mark.args) - BY_NAME.keys():
                    raise pytest.UsageError(f"{item.nodeid}: there is no cell {wrong}")

    def pytest_runtest_logreport(self, report):
        """Note how a test of a cell ended."""
        for name in {name for key, name in report.user_properties if key == _PROPERTY}:
            if report.skipped:
                self.skipped[name] += 1
            elif report.failed:
                self.bad[name].append(report.nodeid)
            elif report.when == "call":
                self.seconds[name].append(report.duration)

    def pytest_sessionfinish(self):
        """Write the page."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(self.text(), encoding="utf-8")

    def text(self) -> str:
        """Return the page."""
        lines, section = [_HEAD], ""
        for cell in CELLS:
            if cell.section != section:
                section = cell.section
                lines += [f"\n## {section}\n", "| fault | ends as | bound | result |"]
                lines += ["|---|---|---|---|"]
            result = self._result(cell.name) or f"open: {cell.open or 'no test yet'}"
            lines.append(f"| {cell.fault} | {cell.ends} | {cell.bound} | {result} |")
        return "\n".join(lines) + "\n"

    def _result(self, name: str) -> str:
        if self.bad[name]:
            return f"**failed**: {', '.join(self.bad[name])}"
        if self.seconds[name]:
            passed = len(self.seconds[name])
            return f"{passed} test{'s' if passed > 1 else ''} passed"
        return f"skipped ({self.skipped[name]})" if self.skipped[name] else ""
