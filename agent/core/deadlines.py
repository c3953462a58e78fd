"""The time between a platform's first signal and SIGKILL, and how it is divided."""

# AWS Batch sends SIGKILL 30 s after SIGTERM: the results must be uploaded by then (job timeouts).
STOP_SECONDS = 24.0
# The application's share of them, so that its results can still be uploaded.
MAX_GRACE_SECONDS, LOST_GRACE_SECONDS = 15.0, 5.0
