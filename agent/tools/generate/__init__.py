"""Definitions for the places where a job runs, made from the objects that the code runs on."""
