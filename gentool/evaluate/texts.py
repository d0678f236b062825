"""Figures of a text checkpoint."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from torch import nn

from gentool.checkpoint.load import Loaded, find_checkpoint, load_checkpoint
from gentool.data.scenes import parse_caption
from gentool.device import pick_device
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


def judge(request: Request) -> list[Figure]:
    """How likely a judge finds samples, beside held-out texts."""
    judging = load_checkpoint(find_checkpoint(request.judge, "judge", "--judge"), "judge")
    network = judging.network.to(pick_device(request.device))
    source, split = request.held_out()
    examples = request.held_out_texts(source)
    real, real_cut = _judged(judging, network, examples)
    drawn, drawn_cut = _judged(judging, network, request.texts)
    made = {"judge": judging.folder.name, "judge_step": judging.step}
    made["judge_data"] = judging.run_config.data["fingerprint"]
    values = {
        "judge_nll": drawn, "judge_perplexity_ratio": math.exp(drawn - real), "judge_cut": drawn_cut
    }  # fmt: skip
    figures = request.of_samples(values)
    for figure in figures:
        figure.settings |= made
    made["data"] = source.fingerprint
    for name, value in {"judge_nll[real]": real, "judge_cut[real]": real_cut}.items():
        figures.append(Figure(name, value, len(examples), None, split, made))
    return figures


def _judged(judging: Loaded, network: nn.Module, texts: Sequence[str]) -> tuple[float, float]:
    """-log p in nats per token of the judge, ends of texts included; the share of texts that are
    longer than the judge's rows, of which the rest is not judged."""
    nll, n = judging.backend.judged(network, texts)
    long = [len(judging.backend.tokenizer.encode(text)) + 2 > judging.backend.length
            for text in texts]  # fmt: skip
    return (nll.sum() / n.sum()).item(), sum(long) / len(long)


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
