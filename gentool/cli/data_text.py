"""`gentool data check` and `gentool data show` of texts."""

from typing import Any

from gentool.cli.checked import Findings, conclude
from gentool.cli.console import console
from gentool.data.config import TextData
from gentool.errors import UsageError

ENDLESS = 1000  # of endless texts are looked at, if no number is given
VALUES = 20  # of an attribute are listed, the most frequent ones


def check_texts(config: TextData, num: int | None, tokenizer: str | None, as_json: bool) -> None:
    """Read every text, or the first `num`, and report on them; `tokenizer` names one."""
    from gentool.data.check_text import TextReport, scan_texts
    from gentool.data.text import open_texts

    source = open_texts(config)
    loaded = _of_texts(tokenizer) if tokenizer else None
    total = num or source.size or ENDLESS
    if source.size is not None:
        total = min(total, source.size)
    report, findings = TextReport(), Findings(as_json)

    def progress() -> None:
        console.progress(report.n, total, {"texts": "read"})

    for problem in scan_texts(source, config, loaded, report, total, progress):
        findings.tell(problem)
    summary: dict[str, Any] = {
        "records": report.n,
        "bad": len(report.bad),
        "empty": report.empty,
        "duplicates": report.duplicates,
        "longest_characters": report.longest,
    }
    if loaded:
        summary["too_long"] = report.too_long
    counts = {name: dict(found.most_common(VALUES)) for name, found in report.attributes.items()}
    if as_json:
        summary["attributes"] = counts
    else:
        summary |= {f"attribute {name}": found for name, found in counts.items()}
    conclude(findings, summary | {"fingerprint": source.fingerprint})


def _of_texts(name: str) -> Any:
    """The tokenizer of texts that a folder or a checkpoint has. Raises as `find_tokenizer`, and
    UsageError if it has none."""
    from gentool.checkpoint.tokenizer import find_tokenizer

    found = find_tokenizer(name)
    found = getattr(found, "text", found)  # of a model with both
    if found is None or found.kind == "vq":
        raise UsageError(f"{name} is a tokenizer of pictures", "--tokenizer names one of texts")
    return found


def show_texts(config: TextData, start: int, num: int) -> None:
    """Print `num` texts from number `start` on, with what is carried along."""
    from gentool.data.check_text import describe
    from gentool.data.source import consecutive
    from gentool.data.text import open_texts

    texts = consecutive(open_texts(config), start, num)
    if not texts:
        raise UsageError(f"--start {start}: there is no such record")
    for number, text in enumerate(texts, start):
        console.result(describe(number, text))
