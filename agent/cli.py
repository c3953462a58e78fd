"""Turn the words of a command line into one of the ways to start."""


def main() -> int:
    """Return the exit code."""
    return 0
