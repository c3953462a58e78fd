"""Pack the archives that a job fetches."""
