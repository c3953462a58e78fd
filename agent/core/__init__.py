"""Values and rules: what the program knows without asking anybody. No input or output."""
