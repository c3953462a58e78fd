"""The fixtures of all tests that run clusters."""

from tests.support.clusters import cluster, meet, place, private

__all__ = ["cluster", "meet", "place", "private"]
