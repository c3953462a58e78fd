"""Let the nodes of a job join, reach each other by SSH, and exit together."""
