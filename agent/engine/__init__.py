"""The one process that waits: its loop, its children, its helpers, its log."""
