"""The command line: every command's parser, and what each command does."""
