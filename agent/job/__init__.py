"""Run the phases of a job on one node: the roles and their components."""
