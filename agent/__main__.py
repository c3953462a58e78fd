"""Block every signal, then start."""

import signal

# A PID 1 without a handler loses the signal, so nothing is imported before this line.
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

from agent.cli import main  # noqa: E402

raise SystemExit(main())
