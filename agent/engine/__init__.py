"""The supervising process: its loop, its children, its helpers, its log."""
