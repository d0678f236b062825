"""The pipe of the README through all four shipped checkpoints: how often the last picture
shows what the first caption said.

    python benchmarks/pipe.py --num 128

And the same with the captions of other pictures, as a control.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from results import append

DRAWN = ("ddpm", "mvtm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--num", type=int, default=128)
    num = parser.parse_args().num
    with tempfile.TemporaryDirectory() as folder:
        english, chinese, shuffled = (Path(folder) / name for name in ("en", "zh", "other"))
        english.write_text(gentool("sample", "diffusion-lm", "-n", str(num)))
        chinese.write_text(gentool("decode", "mask-predict", str(english)))
        lines = english.read_text().splitlines()
        shuffled.write_text("\n".join(lines[1:] + lines[:1]) + "\n")
        values = {}
        for backend in DRAWN:
            images = f"{folder}/{backend}.npy"
            gentool("decode", backend, str(chinese), "--out", images)
            values[backend] = accuracy(images, english)
            values[f"{backend}, shuffled captions"] = accuracy(images, shuffled)
    figures = [
        {"metric": f"scene_accuracy[{name}]", "value": value, "n": num, "seed": 0}
        for name, value in values.items()
    ]
    append("pipe", f"python benchmarks/pipe.py --num {num}", figures)
    print(*figures, sep="\n")


def gentool(*arguments: str) -> str:
    command = ["gentool", *arguments, "--quiet"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def accuracy(images: str, captions: Path) -> float:
    """The share of `images` that show what their caption says."""
    told = gentool("eval", "scenes", "--images", images, "--captions", str(captions), "--json")
    figures = [json.loads(line) for line in told.splitlines()]
    return float(next(f["value"] for f in figures if f.get("metric") == "scene_accuracy"))


if __name__ == "__main__":
    main()
