"""Put a run's checkpoint into checkpoints/, with its figures in the card.

python benchmarks/ship.py runs/ddpm-scenes ddpm-scenes
"""

import shutil
import sys
from pathlib import Path

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
    for file in ("config.json", "model.safetensors"):
        shutil.copyfile(Path(run) / file, target / file)
    if (tokenizer := Path(run) / "tokenizer").is_dir():
        shutil.copytree(tokenizer, target / "tokenizer", dirs_exist_ok=True)
    card = (Path(run) / "README.md").read_text()
    (target / "README.md").write_text(card + FIGURES.format(name=name))


main(*sys.argv[1:])
