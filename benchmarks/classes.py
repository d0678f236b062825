"""The grids of classes in the docs: a class a row, at three guidance scales.

python benchmarks/classes.py runs/ddpm-cifar10-small cifar10-classes.png
python benchmarks/classes.py runs/mvtm-cifar10 cifar10-mvtm.png
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parents[1] / "docs"
SCALES = ("1", "2", "4")
STEPS = {"ddpm": "30", "mvtm": "12"}
GAP = 12


def main(run: str, name: str) -> None:
    config = json.loads((Path(run) / "config.json").read_text())
    backend, labels = config["backend"], config["data"]["labels"]
    classes = [part for label in labels for part in ("--class", label)]
    grids = []
    with tempfile.TemporaryDirectory() as folder:
        for scale in SCALES:
            path = Path(folder) / f"{scale}.png"
            command = ["gentool", "sample", backend, "-c", run, "-n", "8", *classes]
            command += ["--steps", STEPS[backend]]
            subprocess.run(
                [*command, "--guidance-scale", scale, "--out", str(path), "--quiet"], check=True
            )
            grids.append(Image.open(path).copy())
    width = sum(grid.width + GAP for grid in grids) - GAP
    sheet = Image.new("RGB", (width, grids[0].height), "white")
    left = 0
    for grid in grids:
        sheet.paste(grid, (left, 0))
        left += grid.width + GAP
    sheet.save(DOCS / name, optimize=True)


main(*sys.argv[1:])
