"""Definitions of a job for each platform, made from the objects that the code uses."""
