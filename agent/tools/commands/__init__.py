"""The command line: every command's parser and function."""
