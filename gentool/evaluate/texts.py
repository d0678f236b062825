"""Figures of a text checkpoint."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from torch import nn

from gentool.checkpoint.config import run_of
from gentool.checkpoint.load import Loaded
from gentool.control import holds, success
from gentool.data.scenes import parse_caption
from gentool.device import pick_device
from gentool.errors import BadDataError, UsageError
from gentool.evaluate.figures import Figure
from gentool.evaluate.request import Request
from gentool.evaluate.scenes import described
from gentool.evaluate.translation import neighbours, repetition
from gentool.extras import extra
from gentool.rng import BatchRng, seed_of
from gentool.tokenizers.words import split
from gentool.training.validation import BATCH, held_out_examples

MOST_COMPARED = 128  # texts that are compared with one another
READ = 5000  # held-out texts, or more, in which a control is looked for: some attributes are rare


def scenes(request: Request) -> list[Figure]:
    """Which samples are captions of the built-in world, and what they tell of."""
    return request.of_samples(caption_figures(request.texts))


def diversity(request: Request) -> list[Figure]:
    """How much samples repeat one another and themselves, beside held-out texts."""
    return _beside(request, diversity_figures)


def self_bleu(request: Request) -> list[Figure]:
    """How like one another samples are, beside held-out texts."""
    return _beside(request, self_bleu_figures, MOST_COMPARED)


def copies(request: Request) -> list[Figure]:
    """copies: the share of samples that are texts of the training data, word for word."""
    tokenizer = request.loaded.tokenizer
    source = request.trained_on
    if tokenizer is None or source.size is None:
        raise UsageError("metric 'copies' is for models of data that end")
    known = set()
    for index in range(source.size):
        with suppress(BadDataError):  # what was skipped in training
            # With the spaces, and without the unknown words, that a sample would have.
            known.add(seed_of(tokenizer.decode(tokenizer.encode(source[index].text))))
    copied = sum(seed_of(text) in known for text in request.texts)
    return request.of_samples({"copies": copied / len(request.texts)})


def control(request: Request) -> list[Figure]:
    """control: the share of samples that have all that was asked for, and control[C] each of it;
    control[C, real]: the share of held-out texts with that attribute in which it can be read."""
    controls = request.controls
    if controls is None:
        raise UsageError("metric 'control' is of samples that are controlled", "--control A=VALUE")
    rates = success(controls, request.texts)
    figures = request.of_samples(
        {"control": rates.pop("all")} | {f"control[{name}]": rate for name, rate in rates.items()}
    )
    source, split = request.held_out
    texts = request.held_out_texts(source, READ)
    made = {"data": source.fingerprint}
    for wanted in controls.wanted:
        name, _, value = wanted.partition("=")
        having = [text.text for text in texts if value in text.attributes.get(name, ())]
        read = [holds(wanted, text, controls.of_scenes) for text in having]
        share = sum(read) / len(read) if read else None
        figures.append(Figure(f"control[{wanted}, real]", share, len(read), None, split, made))
    return figures


def _beside(
    request: Request,
    measure: Callable[[Sequence[str]], dict[str, float | None]],
    most: int | None = None,
) -> list[Figure]:
    """Figures of samples, and as NAME[real] of as many held-out texts, or all there are; of the
    first `most` of both."""
    drawn = request.texts[:most]
    source, split = request.held_out
    texts = [text.text for text in request.held_out_texts(source)][:most]
    made = {"data": source.fingerprint}
    real = [
        Figure(f"{name}[real]", value, len(texts), None, split, made)
        for name, value in measure(texts).items()
    ]
    return request.of_samples(measure(drawn), len(drawn)) + real


def bound(request: Request) -> list[Figure]:
    """The bound on -log p of held-out texts in bits per token, and its four parts.

    Of the model itself: the clamp, which is a way to decode it, is off. A row's padding counts
    among the bits, its tokens are those of its text and the end.
    """
    loaded, settings = request.loaded, replace(request.settings, clamp=0.0)
    network = loaded.network.to(pick_device(request.device))
    source, split = request.held_out
    pad = loaded.tokenizer.special("pad") if loaded.tokenizer else 0
    sums = dict.fromkeys(("prior", "kl", "embedding", "rounding"), 0.0)
    n = tokens = 0
    calls = settings.steps + 2  # terms of a batch
    total = math.ceil(min(request.num, source.size or request.num) / BATCH) * calls
    batches = held_out_examples(loaded.backend, source, loaded.config.data, request.num)
    for number, examples in enumerate(batches):
        rng = BatchRng([example.rng for example in examples])
        rows = [example.value for example in examples]
        for i, (part, bits) in enumerate(loaded.backend.bound(network, rows, rng, settings)):
            sums[part] += bits.cpu().double().sum().item()
            request.progress(number * calls + i + 1, total)
        n += len(rows)
        tokens += sum(id != pad for row in rows for id in row.ids[1:])
    made = {"data": source.fingerprint, **request.drawn_with(), "precision": "fp32"}
    made |= {"clamp": 0.0, "tokens": tokens}
    parts = {"bound": sum(sums.values())} | {f"bound[{k}]": v for k, v in sums.items()}
    return [Figure(name, bits / tokens, n, None, split, made) for name, bits in parts.items()]


def judge(request: Request) -> list[Figure]:
    """How likely a judge finds samples, beside held-out texts."""
    judging = request.judging
    network = judging.network.to(pick_device(request.device))
    source, split = request.held_out
    examples = [text.text for text in request.held_out_texts(source)]
    real, real_cut = _judged(judging, network, examples)
    drawn, drawn_cut = _judged(judging, network, request.texts)
    made = {"judge": run_of(judging.folder).name, "judge_step": judging.step}
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
    tokenizer `words`. repetition: see `repetition`. duplicates: the share of texts that repeat an
    earlier one."""
    rows = [split(text) for text in texts]
    pairs = neighbours(rows)
    return {
        "distinct-1": _distinct(word for row in rows for word in row),
        "distinct-2": _distinct(pairs),
        "repetition": repetition(texts),
        "duplicates": 1 - len(set(texts)) / len(texts),
    }


def self_bleu_figures(texts: Sequence[str]) -> dict[str, float | None]:
    """self_bleu (Zhu et al. 2018): the mean BLEU, 0 to 100, of each text against all others;
    undefined for a single one."""
    bleu = extra("sacrebleu", "self-bleu").sentence_bleu
    rows = [" ".join(split(text)) for text in texts]
    if len(rows) < 2:
        return {"self_bleu": None}
    scores = [
        bleu(row, rows[:i] + rows[i + 1 :], tokenize="none").score for i, row in enumerate(rows)
    ]
    return {"self_bleu": sum(scores) / len(scores)}


def _distinct(ngrams: Iterable[object]) -> float | None:
    counts = Counter(ngrams)
    return len(counts) / counts.total() if counts else None
