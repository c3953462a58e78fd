"""Walk one node through the phases of a job: the roles and their parts."""
