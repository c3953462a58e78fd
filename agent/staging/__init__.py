"""Move archives, packages and results between S3 and this node. Runs in helper processes."""
