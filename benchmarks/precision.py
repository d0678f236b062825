"""Training in bf16 beside fp32: the shipped weights of each backend some steps further, in turns.

python benchmarks/precision.py
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from results import append

ROUNDS, STEPS, LOGGED = 2, 60, 20
BACKENDS = ("ddpm", "diffusion-lm", "mask-predict", "mvtm")


def main() -> None:
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for backend in BACKENDS:
            for precision in ("fp32", "bf16"):
                rates.setdefault((backend, precision), []).append(rate(backend, precision))
    medians = {key: statistics.median(found) for key, found in rates.items()}
    facts = {"n": ROUNDS, "steps": STEPS, "threads": torch.get_num_threads()}
    figures = [
        {"metric": f"examples per second[{backend} {precision}]", "value": round(value, 1)}
        | {"ratio": round(value / medians[backend, "fp32"], 3)}
        | facts
        for (backend, precision), value in medians.items()
    ]
    append("training-precision", "python benchmarks/precision.py", figures)
    print(*figures, sep="\n")


def rate(backend: str, precision: str) -> float:
    """Examples per second of a run's last steps, when all that is made once is there."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"train.log_every={LOGGED}", "train.validate_every=0", "train.sample_every=0"]
        command = [
            *(sys.executable, "-m", "gentool", "train", backend, "--init", f"{backend}-scenes"),
            *("--steps", str(STEPS), "--precision", precision, "--out", f"{folder}/run", "--quiet"),
            *(word for setting in settings for word in ("--set", setting)),
        ]
        subprocess.run(command, check=True)
        last = (Path(folder) / "run" / "log.jsonl").read_text().splitlines()[-1]
    return float(json.loads(last)["examples_per_second"])


main()
