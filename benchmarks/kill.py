"""Kill a training run at twenty random moments, some inside a save, and let it go on each time.

    python benchmarks/kill.py

Saves after every step, so that many of the kills fall into a save. Records how often
`--resume latest` went on, and whether the run ends in the bytes of one that was never cut.
"""

import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import append

KILLS = 20
STEPS = 400
SEED = 0
TINY = [
    *("--set", "model.channels=8", "--set", "model.multipliers=[1]", "--set", "model.attention=[]"),
    *(
        "--set",
        "model.norm_groups=4",
        "--set",
        "model.head_channels=0",
        "--set",
        "model.dropout=0.1",
    ),
    *(
        "--set",
        "train.batch_size=4",
        "--set",
        "train.save_every=1",
        "--set",
        "train.sample_every=0",
    ),
    *("--set", "train.validate_every=0", "--steps", str(STEPS)),
]


def train(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gentool", "train", "ddpm", *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def main() -> None:
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        assert train(*TINY, "--out", str(whole)).wait() == 0
        went_on = inside_a_save = 0
        for kill in range(KILLS):
            options = ["--resume", "latest"] if kill else TINY
            process = train(*options, "--out", str(cut))
            assert process.stderr
            for line in process.stderr:  # wait until it trains, or says why it does not
                if re.match(r"new run|resuming", line):
                    went_on += bool(kill)
                    break
            time.sleep(rng.uniform(0.01, 0.5))
            process.kill()
            process.wait()
            inside_a_save += any((cut / "state").glob(".*.tmp")) or any(cut.glob(".*.tmp"))
        final = train("--resume", "latest", "--out", str(cut))
        went_on += final.wait() == 0
        same = (whole / "model.safetensors").read_bytes() == (
            cut / "model.safetensors"
        ).read_bytes()
    figures = [
        {"metric": "went on after SIGKILL", "value": went_on, "n": KILLS, "seed": SEED},
        {"metric": "kills inside a save", "value": inside_a_save, "n": KILLS, "seed": SEED},
        {"metric": "same bytes as uncut", "value": int(same), "n": 1, "seed": SEED},
    ]
    for figure in figures:
        print(figure["metric"], figure["value"])
    append("kill", "python benchmarks/kill.py", figures)


main()
