"""Run a job on this machine: nodes as containers or processes, and an S3 of its own."""
