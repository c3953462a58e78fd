"""The fixtures of all tests that run clusters."""

from tests.support.clusters import backend, cluster, meet, private

__all__ = ["backend", "cluster", "meet", "private"]
