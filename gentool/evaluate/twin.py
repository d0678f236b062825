"""A checkpoint that decodes with masks beside an autoregressive twin, on the same sentences."""

import time
from collections.abc import Callable, Sequence
from functools import partial

from gentool.evaluate.figures import Figure
from gentool.evaluate.pairs import PairRequest, best, compared
from gentool.translation import translate_lines

BEAMS = {"greedy": 1, "beam=5": 5}
ALONE = 32  # sentences that are timed one at a time

Side = Callable[[Sequence[str], int], Sequence[str | None]]
"""Makes texts of sources, so many tokens at a time."""


def twin(request: PairRequest) -> list[Figure]:
    """What the twin scores, greedily and with a beam, and how long all of them take: told, as
    figures hold no time. Sentence by sentence, each a batch of one, the sides take turns."""
    teacher = request.teacher
    source, split = request.held_out
    pairs = request.held_out_texts(source)
    sources = [pair.source or "" for pair in pairs]
    sides: dict[str, Side] = {"mask-predict": partial(_decoded, request)}
    for name, beam in BEAMS.items():
        sides[f"twin {name}"] = partial(_translated, teacher.translate, beam)

    for side in sides.values():
        side(sources[:1], 1)  # the first call is slower than those after it
    texts: dict[str, Sequence[str | None]] = {}
    together, alone = dict.fromkeys(sides, 0.0), dict.fromkeys(sides, 0.0)
    for done, (name, side) in enumerate(sides.items(), start=1):
        began = time.monotonic()
        texts[name] = side(sources, request.batch_tokens)
        together[name] += time.monotonic() - began
        request.progress(done * len(pairs), len(sides) * len(pairs))
    some = sources[:ALONE]
    for line in some:
        for name, side in sides.items():
            began = time.monotonic()
            side([line], 1)
            alone[name] += time.monotonic() - began
    for how, seconds, n in (
        (f"{request.batch_tokens} tokens at a time", together, len(sources)),
        ("one at a time", alone, len(some)),
    ):
        each = ", ".join(f"{name} {taken / n:.4f}" for name, taken in seconds.items())
        request.tell(f"seconds per sentence, {how}: {each} (n {n})")

    figures = []
    for name, beam in BEAMS.items():
        made = [text or "" for text in texts[f"twin {name}"]]
        with_ = {"twin": teacher.name, "twin_sha256": teacher.hash, "beam": beam}
        with_ |= {"data": source.fingerprint}
        for metric, value, signature in compared(made, pairs, request.of_scenes):
            label = f"{metric}[twin,{name}]"
            figures.append(Figure(label, value, len(pairs), None, split, with_ | signature))
    return figures


def _decoded(request: PairRequest, lines: Sequence[str], tokens: int) -> list[str | None]:
    made = translate_lines(
        request.loaded, lines, request.settings, batch_tokens=tokens, device=request.device,
        precision=request.precision, **request.how,
    )  # fmt: skip
    return list(best([[] if isinstance(found, Exception) else found for _, found in made]))


def _translated(
    translate: Callable[[Sequence[str], int, int], list[str | None]],
    beam: int,
    lines: Sequence[str],
    tokens: int,
) -> list[str | None]:
    return translate(lines, beam, tokens)
