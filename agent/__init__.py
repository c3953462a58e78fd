"""Supervise a closed-source program in its image: on AWS Lambda, on AWS Batch and on a laptop."""

__version__ = "0.1.0"
