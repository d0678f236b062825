"""The command line: a file a verb, and what several verbs share. `main.run` runs one command."""
