"""Launch the application, take its output, watch it and stop it."""
