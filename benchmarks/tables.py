"""Write the tables of docs and model cards from results.jsonl.

    python benchmarks/tables.py           rewrite them
    python benchmarks/tables.py --check   exit 1 if one is not up to date

A table stands between `<!-- figures NAME [METRIC ...] -->` and `<!-- end -->`; without metrics it
has all that are recorded under the name. In place of `figures`:

    pivot    figures `metric[a, b]` with a column for each b
    compare  several names, `NAME,NAME`, with a row for each and a column for each metric
"""

import fnmatch
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from results import read

ROOT = Path(__file__).parents[1]
DETAILS = (
    *("n", "seed", "split", "step", "batch", "repeats", "ratio", "difference"),
    *("draws", "temperature", "parameters", "gflop", "matmul_gflops", "minutes"),
    *("seconds_per_sample", "threads", "bleu", "same output"),
)
BLOCK = re.compile(r"(<!-- (figures|pivot|compare) (\S+)(.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def found(name: str, patterns: list[str]) -> list[dict]:
    """The figures recorded under `name` whose metric matches a pattern, all without patterns."""
    lines = [
        line
        for line in read()
        if line["name"] == name
        and (not patterns or any(fnmatch.fnmatchcase(line["metric"], p) for p in patterns))
    ]
    if not lines:
        raise SystemExit(f"results.jsonl has no figures {name} {' '.join(patterns)}")
    return lines


def figures(name: str, patterns: list[str]) -> str:
    """A Markdown table with a row for each figure."""
    lines = found(name, patterns)
    cells = [[line["metric"], _number(line["value"]), _detail(line, DETAILS)] for line in lines]
    return _markdown(["figure", "value", "of"], cells) + _source(lines[0])


def pivot(name: str, patterns: list[str]) -> str:
    """A row for each `metric[a]`, a column for each b, of figures `metric[a, b]`."""
    lines = found(name, patterns)
    values: dict[str, dict[str, str]] = {}
    for line in lines:
        row, _, column = line["metric"].removesuffix("]").rpartition(",")
        values.setdefault(f"{row}]", {})[column.strip()] = _number(line["value"])
    columns = list(dict.fromkeys(column for row in values.values() for column in row))
    cells = [[name, *(row.get(c, "") for c in columns)] for name, row in values.items()]
    return _markdown(["figure", *columns], cells) + _shared(lines) + _source(lines[0])


def compare(names: str, patterns: list[str]) -> str:
    """A row for each name, a column for each metric; `[key=value]` of a metric is left out."""
    each = {name: found(name, patterns) for name in names.split(",")}
    values = {
        name: {_bare(line["metric"]): _number(line["value"]) for line in lines}
        for name, lines in each.items()
    }
    columns = list(dict.fromkeys(column for row in values.values() for column in row))
    cells = [[name, *(row.get(c, "") for c in columns)] for name, row in values.items()]
    lines = [line for found in each.values() for line in found]
    sources = dict.fromkeys(_source(lines[0]) for lines in each.values())
    return _markdown(["", *columns], cells) + _shared(lines) + "".join(sources)


KINDS = {"figures": figures, "pivot": pivot, "compare": compare}


def filled(text: str) -> str:
    """`text` with every table made anew."""
    return BLOCK.sub(lambda m: m[1] + KINDS[m[2]](m[3], m[4].split()) + m[5], text)


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _shared(lines: list[dict]) -> str:
    """What is the same of all of a table's figures."""
    same = [key for key in DETAILS if all(line.get(key) == lines[0].get(key) for line in lines)]
    told = _detail(lines[0], same)
    return f"\n{told}\n" if told else ""


def _source(line: dict) -> str:
    return f"\n`{line['command']}`, commit {line['commit']}, {line['machine']}\n"


def _bare(metric: str) -> str:
    return re.sub(r"\w+=[^,\]]*(, )?", "", metric).replace("[]", "")


def _number(value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"


def _detail(line: dict, keys: Iterable[str]) -> str:
    parts = [
        f"{key.replace('_', ' ')} {_short(line[key])}" for key in keys if line.get(key) is not None
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
