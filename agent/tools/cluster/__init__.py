"""Run a job on this machine: nodes as containers or processes, with an S3 server of its own."""
