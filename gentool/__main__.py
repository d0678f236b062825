"""`python -m gentool` and `accelerate launch -m gentool`."""

from gentool.cli.main import main

main()
