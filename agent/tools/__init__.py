"""What runs on a person's machine; a job never imports it."""
