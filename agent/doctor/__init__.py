"""Check everything that a job needs before it runs."""
