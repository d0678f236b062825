"""BLEU and chrF of texts beside references, by sacrebleu, each with its signature."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gentool.errors import UsageError
from gentool.extras import extra
from gentool.tokenizers.words import split

TOKENIZERS = ("13a", "zh", "char", "intl", "none")
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")


@dataclass(frozen=True)
class Score:
    """A figure and, of sacrebleu's, the signature without which it says little."""

    value: float | None
    signature: str = ""


def scores(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], tokenize: str = ""
) -> dict[str, Score]:
    """bleu and chrf, 0 to 100, of detokenised texts, and their repetition.

    references: one or several for all hypotheses, in their order. tokenize: one of TOKENIZERS, how
    BLEU finds words; by default `zh` where the references are Chinese, else `13a`. Raises
    UsageError, also where sacrebleu is not installed.
    """
    sacrebleu = scoring(tokenize)
    found = {}
    bleu = sacrebleu.BLEU(tokenize=tokenize or ("zh" if _is_chinese(references[0]) else "13a"))
    for name, metric in {"bleu": bleu, "chrf": sacrebleu.CHRF()}.items():
        value = metric.corpus_score(list(hypotheses), [list(texts) for texts in references]).score
        found[name] = Score(value, str(metric.get_signature()))
    return found | {"repetition": Score(repetition(hypotheses))}


def repetition(texts: Sequence[str]) -> float | None:
    """The share of words, those of the tokenizer `words`, that are the same as the word before;
    of texts without two words undefined."""
    pairs = neighbours([split(text) for text in texts])
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else None


def neighbours(rows: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Each word of a row with the next one."""
    return [pair for row in rows for pair in zip(row, row[1:], strict=False)]


def scoring(tokenize: str) -> Any:
    """sacrebleu's metrics. Raises UsageError where they are not installed, or do not know
    `tokenize`."""
    metrics = extra("sacrebleu.metrics", "BLEU and chrF")
    if tokenize not in ("", *TOKENIZERS):
        raise UsageError(f"--tokenize {tokenize}", f"known: {', '.join(TOKENIZERS)}")
    return metrics


def _is_chinese(texts: Sequence[str]) -> bool:
    """Whether most characters are Chinese or Japanese."""
    text = re.sub(r"\s", "", "".join(texts))
    return 2 * len(_CJK.findall(text)) > len(text)
