"""The time that a platform leaves between its first signal and the end, and how it is divided."""

# From SIGTERM to SIGKILL Batch gives 30 s: out before, results and all (AWS Batch job timeouts).
STOP_SECONDS = 24.0
# The application's share of them, so that its results still go up.
MAX_GRACE_SECONDS, LOST_GRACE_SECONDS = 15.0, 5.0
