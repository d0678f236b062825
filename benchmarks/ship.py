"""Put a run's checkpoint into checkpoints/, with its figures in the card.

    python benchmarks/ship.py runs/ddpm-scenes ddpm-scenes

It is sampled as the recipe of that name says today, which may have been learnt from the run.
"""

import json
import re
import shutil
import sys
from pathlib import Path

from gentool.registry import options_module
from gentool.resources import read_recipe
from gentool.settings import build, to_tree

ROOT = Path(__file__).parents[1]
FIGURES = """
## Figures

<!-- figures {name} -->
<!-- end -->

## Training

<!-- figures {name}-training -->
<!-- end -->
"""


def main(run: str, name: str) -> None:
    target = ROOT / "checkpoints" / name
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(run) / "model.safetensors", target / "model.safetensors")
    facts = json.loads((Path(run) / "config.json").read_text())
    _, recipe = read_recipe(name)
    sample = type(options_module(facts["backend"]).Config().sample)
    facts["config"]["sample"] = to_tree(build(sample, recipe.get("sample", {})))
    for place in {"image", "name"} & facts["config"].get("tokenizer", {}).keys():
        facts["config"]["tokenizer"][place] = ""  # it brings its own, from wherever it came
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    (target / "config.json").write_text(text)
    if (tokenizer := Path(run) / "tokenizer").is_dir():
        shutil.copytree(tokenizer, target / "tokenizer", dirs_exist_ok=True)
    card = (Path(run) / "README.md").read_text()
    sampling = ", ".join(f"{key} {value}" for key, value in facts["config"]["sample"].items())
    card = re.sub(r"(\| sampling defaults \|).*", rf"\1 {sampling} |", card)
    (target / "README.md").write_text(card + FIGURES.format(name=name))


main(*sys.argv[1:])
