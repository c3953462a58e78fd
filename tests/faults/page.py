"""Write the page of faults from the list of cells and the tests' results.

scripts/test leaves it in build/faults.md, and docs/reference/faults.md is a copy of that: a run of
all tests, the slow ones too, that all passed fails when the two differ.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import pytest

from tests.faults.matrix import BY_NAME, CELLS

# The slow tests run where this is 1.
SLOW_TESTS = "ARCHITRAVE_SLOW_TESTS"
_PROPERTY = "cell"
COPY = Path(__file__).parents[2] / "docs/reference/faults.md"
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
        self.passed: dict[str, set[str]] = defaultdict(set)
        self.bad: dict[str, set[str]] = defaultdict(set)
        self.skipped: dict[str, set[str]] = defaultdict(set)
        self.complete = True

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item):
        """Give the report the names of the item's cells: with workers, only the item gets here."""
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
            file = report.nodeid.partition("::")[0].removeprefix("tests/")
            if report.skipped:
                self.skipped[name].add(file)
            elif report.failed:
                self.bad[name].add(file)
            elif report.when == "call":
                self.passed[name].add(file)
        self.complete = self.complete and not (report.skipped or report.failed)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session):
        """Write the page; fail a complete run whose page is not the committed one."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = self.text()
        self.path.write_text(text, encoding="utf-8")
        if self.complete and _is_whole(session.config) and text != COPY.read_text("utf-8"):
            print(f"\n{COPY.name} is not current: cp {self.path} {COPY.relative_to(Path.cwd())}")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def text(self) -> str:
        """Return the page."""
        lines, section = [_HEAD], ""
        for cell in CELLS:
            if cell.section != section:
                section = cell.section
                lines += [f"\n## {section}\n", "| fault | ends as | bound | proven by |"]
                lines += ["|---|---|---|---|"]
            result = self._result(cell.name) or f"open: {cell.open or 'no test yet'}"
            lines.append(f"| {cell.fault} | {cell.ends} | {cell.bound} | {result} |")
        return "\n".join(lines) + "\n"

    def _result(self, name: str) -> str:
        if self.bad[name]:
            return f"**failed**: {_listed(self.bad[name])}"
        if self.passed[name]:
            return _listed(self.passed[name])
        return f"skipped: {_listed(self.skipped[name])}" if self.skipped[name] else ""


def _listed(files: set[str]) -> str:
    return ", ".join(f"`{file}`" for file in sorted(files))


def _is_whole(config: pytest.Config) -> bool:
    """Return whether all tests were asked for, the slow ones too."""
    chosen = config.getoption("keyword") or config.getoption("markexpr")
    slow = os.environ.get(SLOW_TESTS) == "1"
    return list(config.args) == ["tests"] and slow and not chosen
