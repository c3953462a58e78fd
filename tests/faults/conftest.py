"""What the tests of faults share with those of clusters."""

from tests.support.clusters import backend, cluster, private

__all__ = ["backend", "cluster", "private"]
