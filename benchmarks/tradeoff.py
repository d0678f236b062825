"""Quality against time of the shipped checkpoints, laid over each other by `gentool bench`.

    python benchmarks/tradeoff.py             # pictures and texts
    python benchmarks/tradeoff.py pictures

Leaves docs/bench-pictures.png (ddpm, mvtm) and docs/bench-texts.png (mask-predict, diffusion-lm).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from results import append

DOCS = Path(__file__).parents[1] / "docs"
SIDES = {
    "pictures": {
        "ddpm": ["--steps", "5,10,25,50"],
        "mvtm": ["--steps", "2,4,8,16"],
    },
    "texts": {
        "mask-predict": ["--steps", "1,2,4,10", "--length-beam", "1,3"],
        "diffusion-lm": ["--steps", "5,20,50,200"],
    },
}


def main() -> None:
    for side in sys.argv[1:] or SIDES:
        figures = []
        with tempfile.TemporaryDirectory() as folder:
            files = []
            for backend, options in SIDES[side].items():
                command = ["gentool", "bench", backend, *options, "--json"]
                run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                files.append(Path(folder, f"{backend}.jsonl"))
                files[-1].write_text(run.stdout)
                figures += [figure(json.loads(line)) for line in run.stdout.splitlines()]
            plot = ["gentool", "bench", "plot", *map(str, files)]
            subprocess.run([*plot, "--out", str(DOCS / f"bench-{side}.png")], check=True)
        append(f"bench-{side}", f"python benchmarks/tradeoff.py {side}", figures)


def figure(record: dict[str, Any]) -> dict[str, Any]:
    """The line for results.jsonl of a record of `gentool bench`."""
    beam = f", beam {record['length_beam']}" if record["length_beam"] else ""
    kept = ("repeats", "seed", "quality_deviation", "calls_per_sample", "peak_memory_mb",
            "batch_size", "threads", "precision")  # fmt: skip
    return {
        "metric": f"{record['backend']}, {record['steps']} steps{beam}: {record['metric']}",
        "value": round(record["quality"], 4),
        "n": record["num"] * record["repeats"],
        "seconds_per_sample": float(f"{record['seconds_per_sample']:.3g}"),
        **{key: record[key] for key in kept},
    }


main()
