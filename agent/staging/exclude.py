"""Match the results that are not uploaded (ARCHITRAVE_OUTPUT_EXCLUDE)."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable


class Exclude:
    """Glob patterns; called with the path of a file, relative to the output directory.

    `*` matches slashes too. A pattern without a slash matches the name of a file or directory at
    any depth (`*.tmp`, `cache`), one with a slash a path (`./run/*.tmp`). With a directory all that
    is in it is excluded; `scratch/` matches directories only.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._rules = [_Rule(given) for given in patterns]

    def __call__(self, relative: str) -> bool:
        """Return whether a file is excluded."""
        if not self._rules:
            return False
        names = relative.split("/")
        paths = ["/".join(names[: end + 1]) for end in range(len(names))]
        # Each rule looks, so that each knows whether it has matched anything.
        return any([rule.matches(names, paths) for rule in self._rules])  # noqa: C419

    def unmatched(self) -> list[str]:
        """Return the patterns that have matched nothing so far."""
        return [rule.given for rule in self._rules if not rule.used]


class _Rule:
    def __init__(self, given: str) -> None:
        self.given = given
        self.used = False
        text = given.rstrip("/")
        self._only_directories = text != given
        self._is_path = "/" in text
        self._pattern = re.compile(fnmatch.translate(text.removeprefix("./").lstrip("/")))

    def matches(self, names: list[str], paths: list[str]) -> bool:
        looked_at = paths if self._is_path else [*names[:-1], *paths[-1:], names[-1]]
        if self._only_directories:
            looked_at = paths[:-1] if self._is_path else names[:-1]
        found = any(self._pattern.match(one) for one in looked_at)
        self.used = self.used or found
        return found
