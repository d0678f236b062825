"""The documents say what the code does."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTING = r"(?<!gentool\.)\b(?:data|model|lm|diffusion|tokenizer|train|sample)(?:\.[a-z_]+)+\b"
FILES = (
    ".md",
    ".py",
    ".parquet",
    ".safetensors",
    ".json",
    ".en",
    ".de",
    ".txt",
    ".csv",
    ".png",
    ".gif",
)


def test_tables_are_those_of_results_jsonl():
    run = subprocess.run(
        [sys.executable, "benchmarks/tables.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


def test_every_picture_and_page_that_is_linked_exists():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_place_within_a_page_that_is_linked_exists():
    def places(page: Path) -> set[str]:
        headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
        return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}

    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target, place in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
            assert place in places(page.parent / target if target else page), (
                f"{page.name}: {place}"
            )


def test_every_setting_in_the_docs_exists():
    from gentool.registry import BACKENDS, HELPERS, options_module
    from gentool.settings import flatten, to_tree

    known = set()
    for backend in BACKENDS | HELPERS:
        known |= flatten(to_tree(options_module(backend).Config())).keys()
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        named = re.findall(SETTING, page.read_text())
        named = [name for name in named if not name.endswith(FILES)]
        wrong = {
            n for n in named if n not in known and not any(k.startswith(f"{n}.") for k in known)
        }
        assert not wrong, f"{page.name}: {wrong}"


def test_the_code_of_the_backend_page_is_that_of_the_backend():
    def flat(text: str) -> str:  # as ruff moves the blocks of pages to the left
        return "\n".join(line.strip() for line in text.strip().splitlines())

    folder = ROOT / "tests" / "flow"
    paths = [*folder.rglob("*.toml"), *folder.rglob("*.py")]
    files = [flat(path.read_text()) for path in paths]
    blocks = re.findall(
        r"```(?:python|toml)\n(.*?)```", (ROOT / "docs/backend.md").read_text(), re.S
    )
    assert len(blocks) == 4
    for block in blocks:
        for piece in block.split("\n\n\n"):
            assert any(flat(piece) in text for text in files), piece
