"""Figures of a text checkpoint."""

from collections import Counter
from collections.abc import Iterable, Sequence

from gentool.data.scenes import parse_caption
from gentool.evaluate.figures import Figure
from gentool.evaluate.request import Request
from gentool.evaluate.scenes import described
from gentool.tokenizers.words import split


def scenes(request: Request) -> list[Figure]:
    """Which samples are captions of the built-in world, and what they tell of."""
    return request.of_samples(caption_figures(request.texts))


def diversity(request: Request) -> list[Figure]:
    """How much samples repeat one another and themselves."""
    return request.of_samples(diversity_figures(request.texts))


def caption_figures(texts: Sequence[str]) -> dict[str, float | None]:
    """scene_captions: the share that the grammar of the built-in world accepts; the others as for
    pictures, of those."""
    read = [parse_caption(text) for text in texts]
    found = [scene for scene in read if scene is not None]
    return {"scene_captions": len(found) / len(read), **described(found)}


def diversity_figures(texts: Sequence[str]) -> dict[str, float | None]:
    """distinct-n: different n-grams among all n-grams of words (Li et al. 2016), those of the
    tokenizer `words`. repetition: words that are the same as the word before. duplicates: texts
    drawn before."""
    rows = [split(text) for text in texts]
    pairs = [pair for row in rows for pair in zip(row, row[1:], strict=False)]
    same = sum(a == b for a, b in pairs)
    return {
        "distinct-1": _distinct(word for row in rows for word in row),
        "distinct-2": _distinct(pairs),
        "repetition": same / len(pairs) if pairs else None,
        "duplicates": 1 - len(set(texts)) / len(texts),
    }


def _distinct(ngrams: Iterable[object]) -> float | None:
    counts = Counter(ngrams)
    return len(counts) / counts.total() if counts else None
