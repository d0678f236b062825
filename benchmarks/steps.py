"""How many held-out captions the shipped ddpm draws exactly after so many steps of each sampler.

    python benchmarks/steps.py --num 128 [--samplers dpm++ …] [--steps 20 10 …]

Two lines per sampler and number of steps: English and Chinese. Those not measured this time are
kept.
"""

import argparse
import json
import subprocess
import sys
import time

from results import append, read

NAME = "ddpm-scenes-steps"
LANGUAGES = ("en", "zh")
METHODS = {
    "ancestral": ["--sampler", "ancestral"],
    "ddim": ["--sampler", "ddim", "--eta", "0"],
    "dpm++": ["--sampler", "dpm++", "--eta", "0"],
    "dpm++ with noise": ["--sampler", "dpm++", "--eta", "1"],
    "dpm++ with four times the noise": ["--sampler", "dpm++", "--eta", "4"],
    "dpm++ with noise and even steps": [
        *("--sampler", "dpm++", "--eta", "1", "--spacing", "trailing"),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--num", type=int, default=128)
    parser.add_argument("--steps", type=int, nargs="+", default=[1000, 250, 50, 20, 10])
    parser.add_argument("--samplers", nargs="+", default=[*METHODS], choices=[*METHODS])
    options = parser.parse_args()
    for steps in sorted(options.steps):
        for sampler in options.samplers:
            command = [
                *(sys.executable, "-m", "gentool", "eval", "ddpm", "--metric", "scenes"),
                *("--data", "scenes:test"),
                *("--num", str(options.num), "--steps", str(steps), "--json", "--quiet"),
                *METHODS[sampler],
            ]
            started = time.perf_counter()
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = {f["metric"]: f["value"] for f in map(json.loads, run.stdout.splitlines())}
            seconds = (time.perf_counter() - started) / options.num / len(LANGUAGES)
            figures = [
                {"metric": f"scene_accuracy[{language}, {sampler}, {steps} steps]",
                 "value": found[f"scene_accuracy[test-{language}]"], "n": options.num, "seed": 0,
                 "seconds_per_sample": round(seconds, 4)}
                for language in LANGUAGES
            ]  # fmt: skip
            print(*figures, sep="\n", flush=True)
            fields, new = {*figures[0]}, {figure["metric"] for figure in figures}
            kept = [
                {k: v for k, v in line.items() if k in fields}
                for line in read()
                if line["name"] == NAME and line["metric"] not in new
            ]
            command = f"python benchmarks/steps.py --num {options.num}"
            append(NAME, command, sorted(kept + figures, key=_order))


def _order(figure: dict[str, object]) -> tuple[str, str, int]:
    language, sampler, steps = str(figure["metric"])[:-1].split("[")[1].split(", ")
    return sampler, language, -int(steps.split()[0])


main()
