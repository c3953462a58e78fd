"""The in-image supervisor that takes a closed program from a Docker image to Lambda, Batch and a laptop."""

__version__ = "0.1.0"
