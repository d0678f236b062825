"""Run a command and record its figures.

    python benchmarks/record.py NAME gentool eval ddpm --num 512 --json
    python benchmarks/record.py --seconds NAME gentool demo

With --seconds the figure is how long the command took, else what it prints under --json.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time

from results import append


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("name")
    parser.add_argument("--seconds", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    started = time.perf_counter()
    run = subprocess.run(options.command, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - started
    if run.returncode:
        sys.exit(run.returncode)
    if options.seconds:
        figures = [{"metric": "seconds", "value": round(seconds, 1)}]
    else:
        figures = [json.loads(line) for line in run.stdout.splitlines()]
        # The bound's term of every single step is left out: nobody reads a thousand lines.
        figures = [figure for figure in figures if "[t=" not in figure["metric"]]
    append(options.name, shlex.join(options.command), figures)


main()
