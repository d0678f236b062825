"""Record the training loss of a run at its start, middle and end.

    python benchmarks/curve.py NAME runs/cifar gentool train ddpm --steps 5000

After the run comes the command that it was trained by.
"""

import json
import shlex
import sys
from pathlib import Path

from results import append


def main(name: str, run: str, *command: str) -> None:
    log = [json.loads(line) for line in (Path(run) / "log.jsonl").read_text().splitlines()]
    losses = [record for record in log if "loss" in record]
    validations = [record for record in log if "val_loss" in record]
    chosen = {"start": losses[0], "middle": losses[len(losses) // 2], "end": losses[-1]}
    figures = [
        {"metric": f"loss[{when}]", "value": record["loss"], "step": record["step"]}
        for when, record in chosen.items()
    ]
    figures += [
        {"metric": "validation loss", "value": r["val_loss"], "n": r["val_examples"],
         "step": r["step"]}
        for r in validations[-1:]
    ]  # fmt: skip
    rate = losses[-1]["examples_per_second"]
    figures.append({"metric": "training examples per second", "value": rate})
    config = json.loads((Path(run) / "config.json").read_text())
    figures.append({"metric": "training steps", "value": config["metrics"]["step"]})
    seed = config["config"]["train"]["seed"]
    append(name, shlex.join(command), [figure | {"seed": seed} for figure in figures])


main(*sys.argv[1:])
