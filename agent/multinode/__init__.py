"""Let the nodes of a job meet, reach each other by SSH, and end together."""
