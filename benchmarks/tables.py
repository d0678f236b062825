"""Write the tables of docs and model cards from results.jsonl.

    python benchmarks/tables.py           rewrite them
    python benchmarks/tables.py --check   exit 1 if one is not up to date

A table stands between `<!-- figures NAME [METRIC ...] -->` and `<!-- end -->`; without metrics it
has all that are recorded under the name.
"""

import fnmatch
import re
import sys
from pathlib import Path

from results import read

ROOT = Path(__file__).parents[1]
DETAILS = (
    *("n", "seed", "split", "step", "batch", "repeats", "ratio", "difference"),
    *("draws", "temperature", "parameters", "gflop", "matmul_gflops", "minutes"),
    *("seconds_per_sample", "threads", "bleu", "same output"),
)
BLOCK = re.compile(r"(<!-- figures (\S+)(.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(name: str, patterns: list[str]) -> str:
    """A Markdown table of the figures recorded under `name` whose metric matches a pattern."""
    lines = [
        line
        for line in read()
        if line["name"] == name
        and (not patterns or any(fnmatch.fnmatchcase(line["metric"], p) for p in patterns))
    ]
    if not lines:
        raise SystemExit(f"results.jsonl has no figures {name} {' '.join(patterns)}")
    rows = [f"| {line['metric']} | {_number(line['value'])} | {_detail(line)} |" for line in lines]
    head = "| figure | value | of |\n| --- | --- | --- |\n"
    source = f"\n`{lines[0]['command']}`, commit {lines[0]['commit']}, {lines[0]['machine']}\n"
    return head + "\n".join(rows) + "\n" + source


def filled(text: str) -> str:
    """`text` with every table made anew."""
    return BLOCK.sub(lambda m: m[1] + table(m[2], m[3].split()) + m[4], text)


def _number(value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"


def _detail(line: dict) -> str:
    parts = [
        f"{key.replace('_', ' ')} {_short(line[key])}"
        for key in DETAILS
        if line.get(key) is not None
    ]
    return ", ".join(parts)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    stale = []
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("checkpoints/*/*.md")]:
        text = path.read_text()
        if (new := filled(text)) != text:
            stale.append(str(path.relative_to(ROOT)))
            if "--check" not in sys.argv:
                path.write_text(new)
    if stale and "--check" in sys.argv:
        sys.exit(f"not up to date: {', '.join(stale)}; python benchmarks/tables.py")


main()
