"""Figures of a checkpoint that makes text of text."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gentool.data.scenes import parse_caption
from gentool.data.text import Text
from gentool.errors import BadDataError
from gentool.evaluate.figures import Figure
from gentool.evaluate.request import Request
from gentool.evaluate.translation import scores
from gentool.protocol import Hypothesis
from gentool.translation import translate_lines

STEPS, BEAMS = (1, 2, 4, 10), (1, 3, 5)  # of the table


@dataclass
class PairRequest(Request):
    """How to decode, beside what there is to measure."""

    batch_tokens: int = 4096
    gold_length: bool = False  # take the lengths of the references
    how: dict[str, Any] = field(default_factory=dict)  # fast, dedup
    tell: Callable[[str], None] = lambda message: None

    def decode(self, pairs: Sequence[Text], settings: Any = None) -> list[list[Hypothesis]]:
        """The hypotheses for each source, the best first: all candidates, with `fast` one. Of a
        source that cannot be used none."""
        settings = settings or self.settings
        fast = self.how.get("fast", False)
        began = time.monotonic()
        made: list[list[Hypothesis]] = []
        for number, found in translate_lines(
            self.loaded,
            (pair.source or "" for pair in pairs),
            settings,
            references=[pair.text for pair in pairs] if self.gold_length else None,
            batch_tokens=self.batch_tokens,
            device=self.device,
            precision=self.precision,
            n_best=1 if fast else settings.length_beam,
            **self.how,
        ):
            made.append([] if isinstance(found, BadDataError) else found)
            self.progress(number + 1, len(pairs))
        took = time.monotonic() - began
        each = 1000 * took / len(pairs)
        self.tell(
            f"steps {settings.steps}, length beam {settings.length_beam}: {len(pairs)} sentences "
            f"in {took:.1f} s, {each:.1f} ms each, {self.batch_tokens} tokens at a time"
        )
        return made

    @property
    def of_scenes(self) -> bool:
        """Whether it is measured on captions of the built-in world."""
        spec = (self.data.partition(":")[0],) if self.data else self.loaded.config.data.spec
        return "scenes" in spec

    def made_with(self, settings: Any, fingerprint: str) -> dict[str, Any]:
        """What figures were measured with."""
        chosen = self.drawn_with() | {"data": fingerprint, **asdict(settings)}
        return chosen | {"gold_length": self.gold_length, **self.how}


def quality(request: PairRequest) -> list[Figure]:
    """BLEU, chrF and repetition, and how often the length is the reference's."""
    source, split = request.held_out
    pairs = request.held_out_texts(source)
    made = request.decode(pairs)
    with_ = request.made_with(request.settings, source.fingerprint)
    figures = [
        Figure(name, value, len(pairs), None, split, with_ | signature)
        for name, value, signature in compared(best(made), pairs)
    ]
    lengths = [request.loaded.backend.target_length(pair.text) for pair in pairs]
    right = [[h.length == n for h in those] for those, n in zip(made, lengths, strict=True)]
    values = {"length_accuracy": sum(those[:1] == [True] for those in right) / len(pairs)}
    if not request.how.get("fast"):
        values["length_in_beam"] = sum(map(any, right)) / len(pairs)
    return figures + [Figure(k, v, len(pairs), None, split, with_) for k, v in values.items()]


def scenes(request: PairRequest) -> list[Figure]:
    """scene_accuracy: the share of translations that tell of the same scene as their source; of the
    scenes kept from training and, in brackets, of those with novel pairs of colour and shape."""
    figures = []
    for spec in [request.data] if request.data else ["scenes:test", "scenes:test-novel"]:
        source, split = replace(request, data=spec).held_out
        pairs = request.held_out_texts(source)
        value = scene_accuracy([pair.source or "" for pair in pairs], best(request.decode(pairs)))
        name = "scene_accuracy" + ("[test-novel]" if split == "test-novel" else "")
        with_ = request.made_with(request.settings, source.fingerprint)
        figures.append(Figure(name, value, len(pairs), None, split, with_))
    return figures


def table(request: PairRequest) -> list[Figure]:
    """BLEU, chrF, repetition and of scenes their accuracy for several T and length beams."""
    source, split = request.held_out
    pairs = request.held_out_texts(source)
    figures = []
    for T in STEPS:
        for beam in BEAMS:
            settings = replace(request.settings, steps=T, length_beam=beam)
            made = request.decode(pairs, settings)
            with_ = request.made_with(settings, source.fingerprint)
            for name, value, signature in compared(best(made), pairs, request.of_scenes):
                label = f"{name}[T={T},beam={beam}]"
                figures.append(Figure(label, value, len(pairs), None, split, with_ | signature))
    return figures


def scene_accuracy(sources: Sequence[str], texts: Sequence[str]) -> float:
    """The share of `texts` that are captions, in any language, of the scenes that `sources` tell
    of; any right paraphrase will do. Raises BadDataError for a source that tells of none."""
    right = 0
    for source, text in zip(sources, texts, strict=True):
        wanted, told = parse_caption(source), parse_caption(text)
        if wanted is None:
            raise BadDataError(f"{source!r} describes no scene")
        right += told is not None and told.canonical() == wanted.canonical()
    return right / len(sources)


def best(made: Sequence[Sequence[Hypothesis]]) -> list[str]:
    """The text of each source's best hypothesis, empty where there is none."""
    return [those[0].text if those else "" for those in made]


def compared(
    texts: Sequence[str], pairs: Sequence[Text], of_scenes: bool = False
) -> list[tuple[str, float | None, dict[str, str]]]:
    """Name, value and signature of the figures beside references; of_scenes: and scene_accuracy."""
    found = [
        (name, score.value, {"signature": score.signature} if score.signature else {})
        for name, score in scores(texts, [[pair.text for pair in pairs]]).items()
    ]
    if of_scenes:
        told = scene_accuracy([pair.source or "" for pair in pairs], texts)
        found.append(("scene_accuracy", told, {}))
    return found
