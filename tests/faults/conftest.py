"""What the tests of faults share with those of clusters."""

from tests.support.clusters import cluster, place, private

__all__ = ["cluster", "place", "private"]
