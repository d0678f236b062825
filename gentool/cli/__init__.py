"""The command line. `main` is the console script and the one place that maps errors to codes."""
