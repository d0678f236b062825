"""How good the shipped pictures are after so many steps of each sampler.

    python benchmarks/steps.py --num 256 [--samplers dpm++ …] [--steps 20 10 …]

One line per sampler and number of steps; those not measured this time are kept.
"""

import argparse
import json
import subprocess
import sys
import time

from results import append, read

NAME = "ddpm-scenes-steps"
METHODS = {
    "ancestral": ["--sampler", "ancestral", "--eta", "0"],
    "ddim": ["--sampler", "ddim", "--eta", "0"],
    "dpm++": ["--sampler", "dpm++", "--eta", "0"],
    "dpm++ with noise": ["--sampler", "dpm++", "--eta", "1"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--num", type=int, default=256)
    parser.add_argument("--steps", type=int, nargs="+", default=[1000, 250, 50, 20, 10])
    parser.add_argument("--samplers", nargs="+", default=[*METHODS], choices=[*METHODS])
    options = parser.parse_args()
    for steps in sorted(options.steps):
        for sampler in options.samplers:
            command = [
                *(sys.executable, "-m", "gentool", "eval", "ddpm", "--metric", "scenes"),
                *("--num", str(options.num), "--steps", str(steps), "--json", "--quiet"),
                *METHODS[sampler],
            ]
            started = time.perf_counter()
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            seconds = (time.perf_counter() - started) / options.num
            validity = next(f for f in map(json.loads, run.stdout.splitlines())
                            if f["metric"] == "scene_validity")  # fmt: skip
            metric = f"scene_validity[{sampler}, {steps} steps]"
            figure = {"metric": metric, "value": validity["value"], "n": options.num, "seed": 0,
                      "seconds_per_sample": round(seconds, 4)}  # fmt: skip
            print(figure, flush=True)
            kept = [
                {k: line[k] for k in figure if k in line}
                for line in read()
                if line["name"] == NAME and line["metric"] != metric
            ]
            figures = sorted(kept + [figure], key=_order)
            append(NAME, f"python benchmarks/steps.py --num {options.num}", figures)


def _order(figure: dict[str, object]) -> tuple[str, int]:
    sampler, steps = str(figure["metric"]).split("[")[1].split(", ")
    return sampler, -int(steps.split()[0])


main()
