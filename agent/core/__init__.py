"""Values and rules: settings, errors, names. No input or output."""
