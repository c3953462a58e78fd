"""What several suites use: programs, servers, stand-ins, and looks at results."""
