"""FID and KID of a class-conditional run under a fitted classifier, with what they are between.

    python benchmarks/distances.py runs/ddpm-cifar10-small runs/features-cifar10

The reference is what the run held out. Beside the run's samples, as many of each class, stand
pictures that it was trained on, which is what can be reached, and uniform noise.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from results import append

from gentool.checkpoint.load import load_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run")
    parser.add_argument("features")
    parser.add_argument("--steps", default="20")
    options = parser.parse_args()
    loaded = load_checkpoint(Path(options.run), "ddpm")
    train, held_out = loaded.backend.sources()
    reference = scaled(np.stack([held_out[i].image for i in range(held_out.size)]))
    labels = loaded.run_config.data["labels"]
    classes = [part for label in labels for part in ("--class", label)]
    n = len(reference) // len(labels)  # of each class
    with tempfile.TemporaryDirectory() as folder:
        drawn = f"{folder}/samples.npy"
        command = ["gentool", "sample", "ddpm", "-c", options.run, "-n", str(n), *classes]
        subprocess.run([*command, "--steps", options.steps, "--out", drawn, "-q"], check=True)
        samples = np.load(drawn)
        real = scaled(np.stack([train[i].image for i in range(len(samples))]))
        noise = np.random.default_rng(0).uniform(-1, 1, samples.shape).astype(np.float32)
        sides = {"samples": samples, "real": real, "noise": noise}
        np.save(f"{folder}/reference.npy", reference)
        figures: list[dict[str, Any]] = []
        for side, pictures in sides.items():
            np.save(f"{folder}/side.npy", pictures)
            command = ["gentool", "eval", "images", f"{folder}/side.npy", "--ref",
                       f"{folder}/reference.npy", "--features", options.features,
                       "--metric", "fid", "--metric", "kid", "--json", "-q"]  # fmt: skip
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            for line in run.stdout.splitlines():
                figure = json.loads(line)
                figure["metric"] = f"{figure['metric']}, {side}"
                figures.append(figure)
                print(figure, flush=True)
    command = f"python benchmarks/distances.py {options.run} {options.features}"
    append("distances-cifar10", f"{command} --steps {options.steps}", figures)


def scaled(images: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, C] as the float32 [N, C, H, W] in -1..1 of `sample --out x.npy`."""
    return (images.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)


main()
