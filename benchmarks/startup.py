"""How long a user waits before anything happens, beside what torch alone takes.

    python benchmarks/startup.py

Runs each command five times, alternating, and records medians and their ratio to `import torch`.
"""

import statistics
import subprocess
import sys
import time

from results import append

COMMANDS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "gentool --help": [sys.executable, "-m", "gentool", "--help"],
    "gentool sample ddpm -n 1 --steps 1": [
        *(sys.executable, "-m", "gentool", "sample", "ddpm", "-n", "1", "--steps", "1"),
        *("--out", "/tmp/gentool-startup.png", "--quiet"),
    ],
}


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(5):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    figures = []
    for name, value in medians.items():
        ratio = value / medians["import torch"]
        figures += [
            {"metric": f"seconds[{name}]", "value": round(value, 3), "n": 5},
            {"metric": f"ratio[{name} / import torch]", "value": round(ratio, 3), "n": 5},
        ]
    append("startup", "python benchmarks/startup.py", figures)
    for figure in figures:
        print(figure["metric"], figure["value"])


main()
